#include "server/framing.h"
#include <string.h>
#include <strings.h>

static const char content_length[] = "content-length", transfer_encoding[] = "transfer-encoding", host[] = "host";

static bool is_token(const char *text, size_t length)
{
	static const char others[] = "!#$%&'*+.^_`|~";

	for (size_t i = 0; i < length; i++) {
		char byte = text[i];
		bool usual = (byte >= '0' && byte <= '9') || ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'z') || byte == '-';

		if (!usual && (!byte || !strchr(others, byte)))
			return false;
	}
	return length != 0;
}

static bool has_control(const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (((unsigned char)text[i] < 0x20 && text[i] != '\t') || text[i] == 0x7f)
			return true;
	return false;
}

static bool is_called(const char *name, size_t length, const char *wanted, size_t wanted_length)
{
	return length == wanted_length && !strncasecmp(name, wanted, length);
}

/* A folded line is glued to the name before it: "Content-Length: 40\r\n x" arrives as "Content-Lengthx". */
static bool is_glued(const char *name, size_t length, const char *framing_name, size_t framing_length)
{
	return length > framing_length && !strncasecmp(name, framing_name, framing_length);
}

static void refuse(struct srv_framing *framing, const char *why)
{
	if (!framing->fault)
		framing->fault = why;
}

static void read_length(struct srv_framing *framing, const char *value, size_t length)
{
	framing->lengths++;
	framing->content_length = 0;
	if (!length)
		refuse(framing, "Content-Length must be a number");
	for (size_t i = 0; i < length; i++) {
		if (value[i] < '0' || value[i] > '9') {
			refuse(framing, "Content-Length must be a number");
			return;
		}
		if (framing->content_length > UINT64_MAX / 16)
			framing->content_length = UINT64_MAX / 16;
		framing->content_length = framing->content_length * 10 + (uint64_t)(value[i] - '0');
	}
}

static void read_coding(struct srv_framing *framing, const char *value, size_t length)
{
	framing->codings++;
	framing->chunked = is_called(value, length, "chunked", strlen("chunked"));
	if (!framing->chunked)
		refuse(framing, "Transfer-Encoding must be chunked");
}

void srv_framing_header(struct srv_framing *framing, const char *name, size_t name_length, const char *value,
			size_t value_length)
{
	if (!is_token(name, name_length))
		refuse(framing, "a header's name must be a token");
	else if (has_control(value, value_length))
		refuse(framing, "a header's value must hold no control bytes");
	else if (is_glued(name, name_length, content_length, sizeof content_length - 1)
		 || is_glued(name, name_length, transfer_encoding, sizeof transfer_encoding - 1))
		refuse(framing, "a header must not be folded");
	else if (is_called(name, name_length, content_length, sizeof content_length - 1))
		read_length(framing, value, value_length);
	else if (is_called(name, name_length, transfer_encoding, sizeof transfer_encoding - 1))
		read_coding(framing, value, value_length);
	else if (is_called(name, name_length, host, sizeof host - 1))
		framing->hosts++;
}

const char *srv_framing_finish(struct srv_framing *framing)
{
	if (framing->lengths > 1)
		refuse(framing, "Content-Length must be given once");
	if (framing->codings > 1)
		refuse(framing, "Transfer-Encoding must be given once");
	if (framing->lengths && framing->codings)
		refuse(framing, "Content-Length and Transfer-Encoding exclude each other");
	if (framing->codings && !framing->http11)
		refuse(framing, "Transfer-Encoding needs HTTP/1.1");
	if (framing->hosts > 1 || (framing->http11 && !framing->hosts))
		refuse(framing, "Host must be given once");
	return framing->fault;
}
