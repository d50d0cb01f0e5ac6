/* vfio_user_version.c - what client and server agree on.
 *
 * Capabilities that the client does not propose are not in the reply either, which must be a
 * subset; for those the specification's defaults hold. */
#include "host/vfio_user/vfio_user_version.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "host/vfio_user/vfio_user_message.h"

enum { DEFAULT_FDS = 1, DEFAULT_TRANSFER = 1 << 20, DEFAULT_MAPS = 65535 };

/* A number of at least `least`, if it is there. */
static int read_number(const json_t *caps, const char *name, json_int_t least, uint64_t *value,
		       bool *proposed, struct error *e)
{
	const json_t *number = json_object_get(caps, name);

	*proposed = number;
	if (!number)
		return 0;
	if (!json_is_integer(number) || json_integer_value(number) < least)
		return error_set(e, -EINVAL, "capability %s is not a number of at least %lld", name,
				 (long long)least);
	*value = json_integer_value(number);
	return 0;
}

static int read_truth(const json_t *object, const char *name, bool *value, struct error *e)
{
	const json_t *truth = json_object_get(object, name);

	if (truth && !json_is_boolean(truth))
		return error_set(e, -EINVAL, "capability %s is neither true nor false", name);
	*value = json_is_true(truth);
	return 0;
}

static int read_twin_socket(const json_t *caps, struct vfio_user_terms *t, struct error *e)
{
	const json_t *twin = json_object_get(caps, "twin_socket");

	if (twin && !json_is_object(twin))
		return error_set(e, -EINVAL, "capability twin_socket is not an object");
	return twin ? read_truth(twin, "supported", &t->twin_socket, e) : 0;
}

static int read_numbers(const json_t *caps, struct vfio_user_terms *t, struct error *e)
{
	uint64_t fds = DEFAULT_FDS, transfer = DEFAULT_TRANSFER, maps = DEFAULT_MAPS;
	uint64_t pages = VFIO_USER_PAGE;

	if (read_number(caps, "max_msg_fds", 0, &fds, &t->proposed_fds, e) ||
	    read_number(caps, "max_data_xfer_size", VFIO_USER_TRANSFER_MIN, &transfer,
			&t->proposed_transfer, e) ||
	    read_number(caps, "max_dma_maps", 1, &maps, &t->proposed_maps, e) ||
	    read_number(caps, "pgsizes", 1, &pages, &t->proposed_pages, e))
		return e->code;
	t->client_fds = minimum_u64(fds, VFIO_USER_FDS_MAX);
	t->transfer_max = minimum_u64(transfer, VFIO_USER_TRANSFER_MAX);
	t->maps_max = minimum_u64(maps, VFIO_USER_MAPS_MAX);
	t->page_sizes = align_down(pages, VFIO_USER_PAGE);
	if (!t->page_sizes)
		return error_set(e, -EINVAL, "page sizes 0x%llx are all below %d bytes",
				 (unsigned long long)pages, (int)VFIO_USER_PAGE);
	return 0;
}

static int read_capabilities(const json_t *root, struct vfio_user_terms *t, struct error *e)
{
	const json_t *caps = json_object_get(root, "capabilities");

	if (!json_is_object(root) || (caps && !json_is_object(caps)))
		return error_set(e, -EINVAL, "the version data is not an object of capabilities");
	if (read_numbers(caps, t, e) || read_truth(caps, "write_multiple", &t->write_multiple, e) ||
	    read_twin_socket(caps, t, e))
		return e->code;
	if (!t->client_fds)
		t->twin_socket = false; /* it could not be handed over */
	return 0;
}

static int read_data(const char *data, size_t n, struct vfio_user_terms *t, struct error *e)
{
	json_error_t problem;
	json_t *root;
	int err;

	if (data[n - 1])
		return error_set(e, -EINVAL, "the version data does not end in NUL");
	root = json_loads(data, 0, &problem);
	if (!root)
		return error_set(e, -EINVAL, "the version data is not JSON: %.100s", problem.text);
	err = read_capabilities(root, t, e);
	json_decref(root);
	return err;
}

int vfio_user_version_read(const struct vfio_user_message *m, struct vfio_user_terms *terms,
			   struct error *e)
{
	const struct vfio_user_version *v = m->payload;
	size_t n = vfio_user_payload_size(m) - sizeof(*v);

	*terms = (struct vfio_user_terms){ 0 };
	if (v->major != VFIO_USER_MAJOR)
		return error_set(e, -EPROTONOSUPPORT, "version %u.%u is not served", v->major,
				 v->minor);
	terms->minor = minimum_u64(v->minor, VFIO_USER_MINOR);
	return n ? read_data(v->data, n, terms, e) : read_numbers(NULL, terms, e);
}

static void put_number(json_t *caps, bool proposed, const char *name, uint64_t value)
{
	if (proposed)
		json_object_set_new(caps, name, json_integer(value));
}

static json_t *make_capabilities(const struct vfio_user_terms *t)
{
	json_t *caps = json_object();

	put_number(caps, t->proposed_fds, "max_msg_fds", VFIO_USER_FDS_MAX);
	put_number(caps, t->proposed_transfer, "max_data_xfer_size", t->transfer_max);
	put_number(caps, t->proposed_maps, "max_dma_maps", t->maps_max);
	put_number(caps, t->proposed_pages, "pgsizes", t->page_sizes);
	if (t->write_multiple)
		json_object_set_new(caps, "write_multiple", json_true());
	if (t->twin_socket)
		json_object_set_new(caps, "twin_socket",
				    json_pack("{s:b, s:i}", "supported", 1, "fd_index", 0));
	return caps;
}

void *vfio_user_version_reply(const struct vfio_user_terms *terms, size_t *size)
{
	json_t *root = json_pack("{s:o}", "capabilities", make_capabilities(terms));
	char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
	struct vfio_user_version *v = NULL;

	if (text) {
		*size = sizeof(*v) + strlen(text) + 1;
		v = malloc(*size);
	}
	if (v) {
		*v = (struct vfio_user_version){ .major = VFIO_USER_MAJOR, .minor = terms->minor };
		memcpy(v->data, text, *size - sizeof(*v));
	}
	free(text);
	json_decref(root);
	return v;
}
