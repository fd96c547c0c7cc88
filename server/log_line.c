/* The text of a log line. */
#include "server/log.h"
#include "server/write.h"

/* "2026-11-21T11:07:35.000Z" is kept for a second, but for its milliseconds: gmtime_r() takes a lock. */
static void write_time(struct srv_buffer *buffer, struct srv_log_clock *clock)
{
	enum { POINT = sizeof("2026-11-21T11:07:35") - 1 };
	struct timespec now = { 0 };
	struct tm parts;
	long milliseconds;

	clock_gettime(CLOCK_REALTIME, &now);
	if (!clock->text[0] || clock->second != now.tv_sec) {
		gmtime_r(&now.tv_sec, &parts);
		strftime(clock->text, sizeof clock->text, "%Y-%m-%dT%H:%M:%S.000Z", &parts);
		clock->second = now.tv_sec;
	}
	milliseconds = now.tv_nsec / 1000000;
	for (int i = 3; i > 0; i--, milliseconds /= 10)
		clock->text[POINT + i] = (char)('0' + milliseconds % 10);
	srv_write_text(buffer, clock->text);
}

static bool is_printable(unsigned char byte)
{
	return byte > 0x20 && byte < 0x7f && byte != '"' && byte != '\\';
}

/* Client text in a text line: what is not printable ASCII, a quote or a backslash becomes \xHH, so that no line is
 * forged. */
static void write_escaped(struct srv_buffer *buffer, const char *text)
{
	for (;;) {
		const char *start = text;

		while (is_printable((unsigned char)*text))
			text++;
		srv_buffer_add(buffer, start, (size_t)(text - start));
		if (!*text)
			return;
		SRV_PUT(buffer, "\\x");
		srv_write_hex_byte(buffer, (unsigned char)*text++);
	}
}

static void write_text_access(struct srv_buffer *buffer, const struct srv_access *access)
{
	const char *const words[] = { access->remote, access->method, access->path };

	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
		srv_buffer_add_byte(buffer, ' ');
		write_escaped(buffer, words[i]);
	}
	srv_buffer_add_byte(buffer, ' ');
	srv_write_i64(buffer, access->status);
	srv_buffer_add_byte(buffer, ' ');
	srv_write_u64(buffer, access->bytes);
	srv_buffer_add_byte(buffer, ' ');
	srv_write_fixed(buffer, (double)access->nanoseconds / 1e6, 3);
	SRV_PUT(buffer, "ms ");
	write_escaped(buffer, access->request_id);
	srv_buffer_add_byte(buffer, '\n');
}

static void write_json_access(struct srv_buffer *buffer, const struct srv_access *access)
{
	SRV_PUT(buffer, ",\"level\":\"info\",\"remote\":");
	srv_write_string(buffer, access->remote);
	SRV_PUT(buffer, ",\"method\":");
	srv_write_string(buffer, access->method);
	SRV_PUT(buffer, ",\"path\":");
	srv_write_string(buffer, access->path);
	SRV_PUT(buffer, ",\"status\":");
	srv_write_i64(buffer, access->status);
	SRV_PUT(buffer, ",\"bytes\":");
	srv_write_u64(buffer, access->bytes);
	SRV_PUT(buffer, ",\"duration_ms\":");
	srv_write_fixed(buffer, (double)access->nanoseconds / 1e6, 3);
	SRV_PUT(buffer, ",\"request_id\":");
	srv_write_string(buffer, access->request_id);
	SRV_PUT(buffer, "}\n");
}

void srv_log_write_access(struct srv_buffer *buffer, bool json, struct srv_log_clock *clock,
			  const struct srv_access *access)
{
	if (json)
		SRV_PUT(buffer, "{\"time\":\"");
	write_time(buffer, clock);
	if (json) {
		srv_buffer_add_byte(buffer, '"');
		write_json_access(buffer, access);
	} else {
		write_text_access(buffer, access);
	}
}

void srv_log_write_event(struct srv_buffer *buffer, bool json, struct srv_log_clock *clock, const char *level,
			 const char *message)
{
	if (json)
		SRV_PUT(buffer, "{\"time\":\"");
	write_time(buffer, clock);
	if (json) {
		SRV_PUT(buffer, "\",\"level\":");
		srv_write_string(buffer, level);
		SRV_PUT(buffer, ",\"message\":");
		srv_write_string(buffer, message);
		SRV_PUT(buffer, "}\n");
		return;
	}
	srv_buffer_add_byte(buffer, ' ');
	srv_write_text(buffer, level);
	srv_buffer_add_byte(buffer, ' ');
	for (; *message; message++)
		srv_buffer_add_byte(buffer, (unsigned char)*message < 0x20 || *message == 0x7f ? ' ' : *message);
	srv_buffer_add_byte(buffer, '\n');
}
