/* The log: lines go from the loops through a ring each to one thread that writes them, so that a slow or dead reader of
 * the log never slows an answer. What does not fit is dropped and counted. */
#ifndef SRV_LOG_H
#define SRV_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include "server/buffer.h"

struct srv_log;

/* A log to descriptor fd with rings (one for each writing thread), and its thread. NULL when memory or threads are
 * short. */
struct srv_log *srv_log_create(int fd, int rings);

/* Appends one line, which ends with a newline. Only one thread may use a ring. False when it was dropped. */
bool srv_log_add(struct srv_log *log, int ring, const char *line, size_t length);

/* Writes what is left, waiting a second at most for a reader that does not read, and ends the thread. Takes NULL. */
void srv_log_destroy(struct srv_log *log);

/* One answered request. Texts are the client's, and escaped when written. */
struct srv_access {
	const char *remote, *method, *path, *request_id;
	int status;
	uint64_t bytes, nanoseconds;
};

/* The second that was last turned into text, one for each thread. */
struct srv_log_clock {
	time_t second;
	char text[32];
};

/* Appends a line for access: JSON, or text with the same facts. */
void srv_log_write_access(struct srv_buffer *buffer, bool json, struct srv_log_clock *clock,
			  const struct srv_access *access);

/* Appends a line for an event of the program or the library; control bytes become spaces. */
void srv_log_write_event(struct srv_buffer *buffer, bool json, struct srv_log_clock *clock, const char *level,
			 const char *message);

#endif
