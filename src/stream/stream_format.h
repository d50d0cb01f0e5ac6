/* stream_format.h - what the writer and the reader of streams must agree on. */
#ifndef STREAM_STREAM_FORMAT_H
#define STREAM_STREAM_FORMAT_H

#include "stream/stream.h"

#define STREAM_MAGIC 0x4d42544fu	/* "OTBM" in memory */
#define STREAM_END   "end"

enum {
	STREAM_VERSION = 1,
	STREAM_SUM = 4,		/* bytes of the end record's payload */
};

#endif
