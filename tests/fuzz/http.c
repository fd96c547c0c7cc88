/* Bytes of a connection, as they come, to the service's own daemon, over a pair of sockets. The first byte says in
 * pieces of how many bytes they are sent; 0: at once. Every answer is well-formed, none is the server's fault, and
 * nothing stays behind. */
#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>
#include "server/http.h"
#include "server/listen.h"
#include "tests/fuzz/served.h"

enum { ROUNDS_MAX = 64, CLOSE_ROUNDS_MAX = 1000, ANSWERS_MAX = 1 << 22, BODY_MAX = 1024, FOREVER_MS = 600000,
       WORKER_MS = 10000 };

static struct srv_http http;
static char answers[ANSWERS_MAX + 1];
static size_t answered;

static struct MHD_Daemon *daemon_of_service(void)
{
	static struct srv_intake intake = { .limits = { .max_body = BODY_MAX, .body_budget = 1 << 20,
							.deadline_ms = FOREVER_MS, .idle_ms = FOREVER_MS } };
	static struct MHD_Daemon *daemon;
	char error[256];
	int fd;

	if (daemon)
		return daemon;
	fd = srv_listen("127.0.0.1:0", error, sizeof(error));
	fuzz_require(fd >= 0, "%s", error);
	http.context = served_context();
	http.context->defers = true;
	http.intake = &intake;
	http.pool = srv_pool_create(served(), 1, 16);
	fuzz_require(http.pool && srv_desk_init(&http.desk) && srv_http_init_process(), "memory is short");
	daemon = srv_http_start(&http, fd, 16);
	fuzz_require(daemon != NULL, "the daemon starts");
	return daemon;
}

/* ---- what came back */

/* The value of a header within the lines at head, up to the empty one; NULL: there is none. */
static const char *find_header(const char *head, const char *end, const char *name)
{
	size_t length = strlen(name);

	for (const char *line = strstr(head, "\r\n"); line && line < end; line = strstr(line + 2, "\r\n"))
		if (!strncasecmp(line + 2, name, length) && line[2 + length] == ':')
			return line + 2 + length + 1 + strspn(line + 2 + length + 1, " ");
	return NULL;
}

static void check_head(const char *head, const char *end)
{
	for (const char *at = head; at < end; at++)
		fuzz_require(((unsigned char)*at >= ' ' && *at != 127) || *at == '\t' || (*at == '\r' && at[1] == '\n')
				     || (*at == '\n' && at[-1] == '\r'), "a control character in an answer's head: %s", head);
}

/* The end of chunks, or NULL: they are not all there. */
static const char *skip_chunks(const char *at, const char *end)
{
	for (;;) {
		char *behind;
		unsigned long size = strtoul(at, &behind, 16);

		if (behind + 2 > end)
			return NULL;
		fuzz_require(behind > at && !memcmp(behind, "\r\n", 2), "a chunk begins with its size: %.20s", at);
		if ((size_t)(end - behind) < size + 4)
			return NULL;
		at = behind + 2 + size;
		fuzz_require(!memcmp(at, "\r\n", 2), "a chunk ends as its size says");
		at += 2;
		if (!size)
			return at;
	}
}

static void check_json(const char *head, const char *body, size_t length)
{
	json_t *value = json_loadb(body, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);

	fuzz_require(value != NULL, "an answer of JSON is JSON: %.2000s", head);
	json_decref(value);
}

/* One answer at head; the end of it, NULL when it is not all there. */
static const char *check_answer(const char *head, const char *end)
{
	const char *body = strstr(head, "\r\n\r\n"), *length_text, *type;
	size_t length;
	int status;

	fuzz_require(!strncmp(head, "HTTP/1.", 7), "an answer begins with its version: %.40s", head);
	if (!body)
		return NULL;
	status = atoi(head + 9);
	fuzz_require(status == 100 || served_status_is_fit(status), "status %d", status);
	check_head(head, body);
	body += 4;
	if (status == 100 || status == 204 || status == 304)
		return body;
	if (find_header(head, body, "Transfer-Encoding"))
		return !strncmp(body, "HTTP/1.", 7) ? body : skip_chunks(body, end);
	length_text = find_header(head, body, "Content-Length");
	if (!length_text)
		return NULL; /* up to the end of the connection */
	length = strtoul(length_text, NULL, 10);
	if (body == end || !strncmp(body, "HTTP/1.", 7)) /* to HEAD */
		return body;
	if ((size_t)(end - body) < length)
		return NULL;
	type = find_header(head, body, "Content-Type");
	if (type && (!strncmp(type, "application/json", 16) || !strncmp(type, "application/problem+json", 24)))
		check_json(head, body, length);
	return body + length;
}

/* libmicrohttpd refuses some requests by itself, with a page of its own, whose head may come twice; it then closes
 * the connection. */
static bool is_of_library(const char *head)
{
	static const int statuses[] = { 400, 413, 414, 431, 500, 505 };
	const char *body = strstr(head, "\r\n\r\n");
	int status = atoi(head + 9);

	if (!body || find_header(head, body, "X-Content-Type-Options"))
		return false;
	for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++)
		if (statuses[i] == status)
			return true;
	return false;
}

static void check_answers(void)
{
	const char *at = answers, *end = answers + answered;

	answers[answered] = '\0';
	while (at && at < end && !is_of_library(at))
		at = check_answer(at, end);
}

/* ---- the connection */

/* False when the connection is closed. */
static bool receive(int fd)
{
	ssize_t got;

	while ((got = recv(fd, answers + answered, ANSWERS_MAX - answered, MSG_DONTWAIT)) > 0)
		answered += (size_t)got;
	return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) && answered < ANSWERS_MAX;
}

/* A round of the daemon; when a worker has something, after it. */
static void run_round(struct MHD_Daemon *daemon)
{
	struct pollfd finished = { .fd = http.desk.wake, .events = POLLIN };

	if (http.jobs) {
		poll(&finished, 1, WORKER_MS);
		srv_http_resume(&http);
	}
	MHD_run_wait(daemon, 0);
}

/* Lets the daemon work until it has nothing more to say, or closed. */
static bool work(struct MHD_Daemon *daemon, int fd, int rounds)
{
	bool open = true;

	for (int quiet = 0; rounds && open && quiet < 3; rounds--) {
		size_t before = answered;

		run_round(daemon);
		open = receive(fd);
		quiet = answered == before && !http.jobs ? quiet + 1 : 0;
	}
	return open;
}

static void converse(struct MHD_Daemon *daemon, int fd, const uint8_t *data, size_t size)
{
	size_t piece = data[0] ? data[0] : size;
	bool open = true;

	for (size_t sent = 1; sent < size && open;) {
		size_t length = size - sent < piece ? size - sent : piece;

		open = send(fd, data + sent, length, MSG_NOSIGNAL) == (ssize_t)length && work(daemon, fd, 4);
		sent += length;
	}
	if (open)
		work(daemon, fd, ROUNDS_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct sockaddr_in peer = { .sin_family = AF_INET };
	struct MHD_Daemon *daemon = daemon_of_service();
	int fds[2], rounds = 0;

	if (size < 2)
		return 0;
	answered = 0;
	fuzz_require(!socketpair(AF_UNIX, SOCK_STREAM, 0, fds), "sockets are there");
	fuzz_require(MHD_add_connection(daemon, fds[1], (const struct sockaddr *)&peer, sizeof(peer)) == MHD_YES,
		     "the daemon takes a connection");
	converse(daemon, fds[0], data, size);
	close(fds[0]);
	while ((http.active || http.connections) && rounds++ < CLOSE_ROUNDS_MAX)
		run_round(daemon);
	fuzz_require(!http.active && !http.connections, "nothing of a connection stays behind: %zu active, %s", http.active,
		     http.connections ? "open" : "closed");
	check_answers();
	return 0;
}
