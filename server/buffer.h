/* An append-only byte buffer. A failed allocation is sticky: later appends do nothing and the owner asks once, at the
 * end. */
#ifndef SRV_BUFFER_H
#define SRV_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct srv_buffer { /* all zero is an empty buffer */
	char *data;
	size_t length, capacity;
	bool failed;
};

/* Frees the memory; the buffer is empty again. */
void srv_buffer_finish(struct srv_buffer *buffer);

/* Forgets the content and an earlier failure, keeps the memory. */
void srv_buffer_clear(struct srv_buffer *buffer);

/* Makes room for size more bytes, at least doubling. False, and buffer->failed, when memory is short. */
bool srv_buffer_reserve(struct srv_buffer *buffer, size_t size);

/* Appends length bytes, or nothing when the buffer has failed. */
static inline void srv_buffer_add(struct srv_buffer *buffer, const char *bytes, size_t length)
{
	if (buffer->capacity - buffer->length < length && !srv_buffer_reserve(buffer, length))
		return;
	if (length)
		memcpy(buffer->data + buffer->length, bytes, length);
	buffer->length += length;
}

static inline void srv_buffer_add_byte(struct srv_buffer *buffer, char byte)
{
	if (buffer->capacity == buffer->length && !srv_buffer_reserve(buffer, 1))
		return;
	buffer->data[buffer->length++] = byte;
}

/* Appends a string literal. */
#define SRV_PUT(buffer, literal) srv_buffer_add((buffer), "" literal, sizeof(literal) - 1)

/* Hands the bytes to the caller, who frees them; the buffer is empty again. NULL when it never held any. */
char *srv_buffer_release(struct srv_buffer *buffer, size_t *ret_length);

#endif
