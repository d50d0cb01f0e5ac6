/* nbd_target.c - an NBD URI taken apart.
 *
 *	nbd://[user@]host[:port]/export		nbd+unix:///export?socket=/path
 *
 * nbds and nbds+unix are the same with TLS.  The text comes percent-decoded from uri.c;
 * an export name may hold any character, a host none that would need decoding.
 */
#include "storage/nbd_target.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "storage/storage_provider.h"

#define NANOSECONDS 1000000000ull

enum { CONNECTIONS_MAX = 16 };

static int copy(char **to, const char *from, size_t length, struct error *e)
{
	*to = strndup(from, length);
	return *to ? 0 : error_set(e, -ENOMEM, "out of memory");
}

static int copy_option(const struct storage_options *o, const char *name, char **to,
		       struct error *e)
{
	const char *text = storage_options_text(o, name);

	if (!text)
		return 0;
	if (!*text)
		return error_set(e, -EINVAL, "option \"%s\" is empty", name);
	return copy(to, text, strlen(text), e);
}

/* RFC 3986, 3.2.3: digits; we ask for 1 to 65535. */
static int parse_port(struct nbd_target *t, const char *text, size_t length, struct error *e)
{
	unsigned long value = 0;

	for (size_t i = 0; i < length && value <= 65535; i++)
		value = text[i] >= '0' && text[i] <= '9' ? value * 10 + (text[i] - '0') : 65536;
	if (length && (value < 1 || value > 65535))
		return error_set(e, -EINVAL, "\"%.*s\" is not a port, 1 to 65535", (int)length,
				 text);
	return length ? copy(&t->port, text, length, e) : copy(&t->port, "10809", 5, e);
}

/* "host", "host:port", "[v6]", "[v6]:port" */
static int parse_host(struct nbd_target *t, const char *text, size_t length, struct error *e)
{
	const char *end = text + length, *host = text, *host_end;
	int status;

	if (length && *text == '[') {
		host = text + 1;
		host_end = memchr(host, ']', (size_t)(end - host));
		if (!host_end || (host_end + 1 < end && host_end[1] != ':'))
			return error_set(e, -EINVAL, "\"%.*s\" is not \"[address]:port\"",
					 (int)length, text);
		text = host_end + 1;
	} else {
		host_end = memchr(text, ':', length);
		host_end = host_end ? host_end : end;
		text = host_end;
	}
	if (host == host_end)
		return error_set(e, -EINVAL,
				 "no host: write nbd://host/export, or "
				 "nbd+unix:///export?socket=/path");
	status = copy(&t->host, host, (size_t)(host_end - host), e);
	text += text < end;
	return status ? status : parse_port(t, text, (size_t)(end - text), e);
}

static int parse_user(struct nbd_target *t, const char **authority, size_t *length, struct error *e)
{
	const char *at = memchr(*authority, '@', *length);
	const char *user = *authority;

	if (!at)
		return 0;
	if (t->tls_username)
		return error_set(e, -EINVAL,
				 "the TLS user name stands before \"@\" and in the "
				 "option \"tls-username\"");
	*authority = at + 1;
	*length -= (size_t)(at + 1 - user);
	return copy(&t->tls_username, user, (size_t)(at - user), e);
}

static int parse_place(struct nbd_target *t, const struct storage_options *o, bool unix_socket,
		       struct error *e)
{
	const char *path = storage_options_path(o);
	const char *authority = path + 2;
	size_t length = strlen(path) < 2 ? 0 : strcspn(authority, "/");
	int status;

	if (strncmp(path, "//", 2))
		return error_set(e, -EINVAL, "\"//\" is missing after \"%s:\"",
				 storage_options_scheme(o));
	status = copy(&t->export_name, authority + length + (authority[length] == '/'),
		      strlen(authority), e);
	status = status ? status : parse_user(t, &authority, &length, e);
	if (status)
		return status;
	if (unix_socket && (length || !t->socket))
		return error_set(e, -EINVAL, "%s: write %s:///export?socket=/path",
				 length ? "a unix socket has no host" : "no socket",
				 storage_options_scheme(o));
	if (!unix_socket && t->socket)
		return error_set(e, -EINVAL,
				 "option \"socket\" is for %s+unix:", storage_options_scheme(o));
	return unix_socket ? 0 : parse_host(t, authority, length, e);
}

static int parse_texts(struct nbd_target *t, const struct storage_options *o, struct error *e)
{
	int status = copy_option(o, "socket", &t->socket, e);

	status = status ? status : copy_option(o, "tls-certificates", &t->tls_certificates, e);
	status = status ? status : copy_option(o, "tls-psk-file", &t->tls_psk_file, e);
	status = status ? status : copy_option(o, "tls-username", &t->tls_username, e);
	return status ? status : storage_options_switch(o, "tls-verify-peer", &t->tls_verify, e);
}

static int parse_numbers(struct nbd_target *t, const struct storage_options *o, struct error *e)
{
	uint64_t connections = 0;
	int status = storage_options_number(o, "connections", &connections, e);

	status = status ? status : storage_options_duration(o, "timeout", &t->timeout_ns, e);
	status = status ? status
			: storage_options_duration(o, "connect-timeout", &t->connect_timeout_ns, e);
	if (status)
		return status;
	if (storage_options_text(o, "connections") &&
	    (!connections || connections > CONNECTIONS_MAX))
		return error_set(e, -EINVAL, "option \"connections\": not from 1 to %d",
				 CONNECTIONS_MAX);
	if (!t->connect_timeout_ns || t->connect_timeout_ns > 3600 * NANOSECONDS)
		return error_set(e, -EINVAL, "option \"connect-timeout\": not from 1ns to 3600s");
	if (t->timeout_ns > 30 * 86400 * NANOSECONDS)
		return error_set(e, -EINVAL, "option \"timeout\": more than 30 days");
	t->connections = (unsigned)connections;
	return 0;
}

static int check_tls(const struct nbd_target *t, const char *scheme, struct error *e)
{
	if (!t->tls && (t->tls_certificates || t->tls_psk_file || t->tls_username))
		return error_set(e, -EINVAL,
				 "TLS options need the scheme nbds: or nbds+unix:, "
				 "not %s:",
				 scheme);
	return 0;
}

static void set_name(struct nbd_target *t, const char *scheme)
{
	if (t->socket)
		snprintf(t->name, sizeof(t->name), "%s:///%.30s?socket=%.80s", scheme,
			 t->export_name, t->socket);
	else
		snprintf(t->name, sizeof(t->name), "%s://%.70s:%s/%.30s", scheme, t->host, t->port,
			 t->export_name);
}

int nbd_target_parse(struct nbd_target *t, const struct storage_options *o, struct error *e)
{
	const char *scheme = storage_options_scheme(o);
	int status;

	*t = (struct nbd_target){
		.tls = !strncmp(scheme, "nbds", 4),
		.tls_verify = true,
		.timeout_ns = 30 * NANOSECONDS,
		.connect_timeout_ns = 10 * NANOSECONDS,
	};
	status = parse_texts(t, o, e);
	status = status ? status : parse_numbers(t, o, e);
	status = status ? status : parse_place(t, o, strstr(scheme, "+unix"), e);
	status = status ? status : check_tls(t, scheme, e);
	if (status)
		nbd_target_clear(t);
	else
		set_name(t, scheme);
	return status;
}

void nbd_target_clear(struct nbd_target *t)
{
	free(t->host);
	free(t->port);
	free(t->socket);
	free(t->export_name);
	free(t->tls_certificates);
	free(t->tls_psk_file);
	free(t->tls_username);
	*t = (struct nbd_target){ 0 };
}
