#include "server/write.h"
#include <math.h>

static const char digits[] =
	"0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849"
	"5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

static const char hex[] = "0123456789abcdef";

enum { DIGITS_MAX = 20 };

/* How many decimal digits it has: its bits by log10(2), which is one too many at most. */
static size_t count_digits(uint64_t value)
{
	static const uint64_t powers[] = {
		1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000, 10000000000, 100000000000,
		1000000000000, 10000000000000, 100000000000000, 1000000000000000, 10000000000000000, 100000000000000000,
		1000000000000000000, UINT64_C(10000000000000000000),
	};
	unsigned bits = value ? 64 - (unsigned)__builtin_clzll(value) : 1, digits_least = bits * 1233 >> 12;

	return digits_least + (value >= powers[digits_least] || !value);
}

void srv_write_u64(struct srv_buffer *buffer, uint64_t value)
{
	size_t length = count_digits(value);
	char *at;

	if (buffer->capacity - buffer->length < DIGITS_MAX && !srv_buffer_reserve(buffer, DIGITS_MAX))
		return;
	buffer->length += length;
	at = buffer->data + buffer->length;
	while (value >= 100) {
		at -= 2;
		memcpy(at, digits + 2 * (value % 100), 2);
		value /= 100;
	}
	if (value >= 10) {
		at -= 2;
		memcpy(at, digits + 2 * value, 2);
	} else {
		*--at = (char)('0' + value);
	}
}

void srv_write_i64(struct srv_buffer *buffer, int64_t value)
{
	if (value < 0)
		srv_buffer_add_byte(buffer, '-');
	srv_write_u64(buffer, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

void srv_write_fixed(struct srv_buffer *buffer, double value, int decimals)
{
	static const uint64_t powers[] = { 1, 10, 100, 1000, 10000, 100000, 1000000 };
	uint64_t scale = powers[decimals], whole;
	double scaled = fabs(value) * (double)scale;

	if (!(scaled < 9007199254740992.0)) /* NaN too */
		scaled = 0;
	whole = (uint64_t)(scaled + 0.5);
	if (value < 0 && whole)
		srv_buffer_add_byte(buffer, '-');
	srv_write_u64(buffer, whole / scale);
	if (decimals) {
		srv_buffer_add_byte(buffer, '.');
		for (uint64_t unit = scale / 10; unit; unit /= 10)
			srv_buffer_add_byte(buffer, (char)('0' + whole / unit % 10));
	}
}

void srv_write_hex_byte(struct srv_buffer *buffer, unsigned char byte)
{
	srv_buffer_add_byte(buffer, hex[byte >> 4]);
	srv_buffer_add_byte(buffer, hex[byte & 15]);
}

void srv_hex(uint64_t value, char ret[SRV_HEX_SIZE])
{
	ret[SRV_HEX_SIZE - 1] = '\0';
	for (int i = SRV_HEX_SIZE - 2; i >= 0; i--, value >>= 4)
		ret[i] = hex[value & 15];
}

void srv_write_bool(struct srv_buffer *buffer, bool value)
{
	if (value)
		SRV_PUT(buffer, "true");
	else
		SRV_PUT(buffer, "false");
}

void srv_write_text(struct srv_buffer *buffer, const char *text)
{
	srv_buffer_add(buffer, text, strlen(text));
}

/* Length of the UTF-8 sequence at text, of at most left bytes; 0 when it is none (overlong, surrogate, cut off). */
static size_t utf8_length(const unsigned char *text, size_t left)
{
	unsigned char first = text[0];
	size_t length = first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;

	if (!length || length > left)
		return 0;
	for (size_t i = 1; i < length; i++)
		if ((text[i] & 0xc0) != 0x80)
			return 0;
	if ((first == 0xe0 && text[1] < 0xa0) || (first == 0xed && text[1] > 0x9f)
	    || (first == 0xf0 && text[1] < 0x90) || (first == 0xf4 && text[1] > 0x8f))
		return 0;
	return length;
}

static void write_escape(struct srv_buffer *buffer, unsigned char byte)
{
	static const char plain[] = "\b\t\n\f\r\"\\", letters[] = "btnfr\"\\";
	const char *known = byte ? strchr(plain, byte) : NULL;

	srv_buffer_add_byte(buffer, '\\');
	if (known) {
		srv_buffer_add_byte(buffer, letters[known - plain]);
		return;
	}
	SRV_PUT(buffer, "u00");
	srv_write_hex_byte(buffer, byte);
}

/* ASCII that stands for itself in a string. */
static inline bool is_plain(unsigned char byte)
{
	return byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\';
}

/* Whether all of eight bytes are: in none a bit that tells one which is not. What is below 32 or one of two signs is found
 * by the borrow of a subtraction, what is above 126 by the carry of a sum; they may only err behind a byte that is not plain. */
static inline bool are_plain(const unsigned char *bytes)
{
	const uint64_t ones = UINT64_C(0x0101010101010101), highs = ones << 7;
	uint64_t word, quote, slash;

	memcpy(&word, bytes, sizeof word);
	quote = word ^ ones * '"';
	slash = word ^ ones * '\\';
	return !((word | (word + ones) | (word - ones * 0x20) | (quote - ones) | (slash - ones)) & highs);
}

/* Whether all of a text is plain, as nearly every one is. The last eight bytes may be looked at again. */
static inline bool is_all_plain(const unsigned char *bytes, size_t length)
{
	size_t at = 0;

	if (length < sizeof(uint64_t)) {
		while (at < length && is_plain(bytes[at]))
			at++;
		return at == length;
	}
	for (; at < length - sizeof(uint64_t); at += sizeof(uint64_t))
		if (!are_plain(bytes + at))
			return false;
	return are_plain(bytes + length - sizeof(uint64_t));
}

static void write_other(struct srv_buffer *buffer, const char *text, size_t length)
{
	const unsigned char *bytes = (const unsigned char *)text;
	size_t start = 0, at = 0;

	srv_buffer_add_byte(buffer, '"');
	for (;;) {
		size_t step;

		while (at < length && is_plain(bytes[at]))
			at++;
		if (at == length)
			break;
		step = utf8_length(bytes + at, length - at);
		if (step) {
			at += step;
			continue;
		}
		srv_buffer_add(buffer, text + start, at - start);
		if (bytes[at] < 0x80)
			write_escape(buffer, bytes[at]);
		else
			SRV_PUT(buffer, "\\ufffd");
		start = ++at;
	}
	srv_buffer_add(buffer, text + start, at - start);
	srv_buffer_add_byte(buffer, '"');
}

void srv_write_string_n(struct srv_buffer *buffer, const char *text, size_t length)
{
	char *at;

	if (!is_all_plain((const unsigned char *)text, length)) {
		write_other(buffer, text, length);
		return;
	}
	if (buffer->capacity - buffer->length < length + 2 && !srv_buffer_reserve(buffer, length + 2))
		return;
	at = buffer->data + buffer->length;
	*at = '"';
	memcpy(at + 1, text, length);
	at[length + 1] = '"';
	buffer->length += length + 2;
}

void srv_write_string(struct srv_buffer *buffer, const char *text)
{
	srv_write_string_n(buffer, text, strlen(text));
}
