#include "server/buffer.h"
#include <stdint.h>
#include <stdlib.h>

enum { SMALLEST = 512 };

void srv_buffer_finish(struct srv_buffer *buffer)
{
	free(buffer->data);
	*buffer = (struct srv_buffer){ 0 };
}

void srv_buffer_clear(struct srv_buffer *buffer)
{
	buffer->length = 0;
	buffer->failed = false;
}

bool srv_buffer_reserve(struct srv_buffer *buffer, size_t size)
{
	size_t capacity = buffer->capacity ? buffer->capacity : SMALLEST;
	char *data;

	if (buffer->failed || size > SIZE_MAX / 4 || buffer->length > SIZE_MAX / 4) {
		buffer->failed = true;
		return false;
	}
	if (buffer->capacity - buffer->length >= size)
		return true;
	while (capacity - buffer->length < size)
		capacity *= 2;
	data = realloc(buffer->data, capacity);
	if (!data) {
		buffer->failed = true;
		return false;
	}
	buffer->data = data;
	buffer->capacity = capacity;
	return true;
}

char *srv_buffer_release(struct srv_buffer *buffer, size_t *ret_length)
{
	char *data = buffer->data;

	*ret_length = buffer->length;
	*buffer = (struct srv_buffer){ 0 };
	return data;
}
