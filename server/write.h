/* The JSON writer: values appended to a buffer. Commas and keys are the caller's, as prepared fragments. */
#ifndef SRV_WRITE_H
#define SRV_WRITE_H

#include <stdbool.h>
#include <stdint.h>
#include "server/buffer.h"

/* Whole numbers in decimal, from a table of two digits a step. */
void srv_write_u64(struct srv_buffer *buffer, uint64_t value);
void srv_write_i64(struct srv_buffer *buffer, int64_t value);

/* A number with a fixed count of decimals (0..6), rounded half away from zero; what is not finite or beyond 2^53 is
 * 0. */
void srv_write_fixed(struct srv_buffer *buffer, double value, int decimals);

/* Two hexadecimal digits. */
void srv_write_hex_byte(struct srv_buffer *buffer, unsigned char byte);

/* The 16 hexadecimal digits of value, and a NUL. */
enum { SRV_HEX_SIZE = 17 };
void srv_hex(uint64_t value, char ret[SRV_HEX_SIZE]);

void srv_write_bool(struct srv_buffer *buffer, bool value);

/* A string in quotes, escaped; bytes that are not UTF-8 become U+FFFD, so that what is written is always JSON. */
void srv_write_string(struct srv_buffer *buffer, const char *text);
void srv_write_string_n(struct srv_buffer *buffer, const char *text, size_t length);

/* A NUL-ended text as it is. */
void srv_write_text(struct srv_buffer *buffer, const char *text);

#endif
