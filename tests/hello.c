/* hello BYTES: the least that a service on libmicrohttpd can do, to hold the real one against. Reads and drops the body
 * of any request and answers BYTES bytes that were made once. One thread, on a free port of the loopback that is
 * printed when it listens; ends on SIGTERM or SIGINT. */
#include <arpa/inet.h>
#include <microhttpd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BYTES_MAX = 16 << 20, POOL_BYTES = 8192 };

static enum MHD_Result answer(void *response, struct MHD_Connection *connection, const char *url, const char *method,
			      const char *version, const char *data, size_t *size, void **state)
{
	static int begun;

	(void)url;
	(void)method;
	(void)version;
	(void)data;
	if (!*state) {
		*state = &begun;
		return MHD_YES;
	}
	if (*size) {
		*size = 0;
		return MHD_YES;
	}
	return MHD_queue_response(connection, MHD_HTTP_OK, response);
}

static struct MHD_Response *make_response(size_t bytes)
{
	char *text = malloc(bytes);
	struct MHD_Response *response;

	if (!text)
		return NULL;
	memset(text, 'x', bytes);
	response = MHD_create_response_from_buffer(bytes, text, MHD_RESPMEM_MUST_FREE);
	if (response)
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
	return response;
}

static int port_of(struct MHD_Daemon *daemon)
{
	const union MHD_DaemonInfo *info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT);

	return info ? info->port : 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	unsigned long bytes = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
	struct MHD_Response *response;
	struct MHD_Daemon *daemon;
	sigset_t signals;
	int signal_number;

	if (bytes < 1 || bytes > BYTES_MAX) {
		fprintf(stderr, "usage: hello BYTES\n");
		return 2;
	}
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	response = make_response(bytes);
	daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD, 0, NULL, NULL, answer, response, MHD_OPTION_SOCK_ADDR,
				  (struct sockaddr *)&address, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL_BYTES, MHD_OPTION_END);
	if (!response || !daemon) {
		fprintf(stderr, "hello: cannot listen\n");
		return 1;
	}
	printf("%d\n", port_of(daemon));
	fflush(stdout);
	sigwait(&signals, &signal_number);
	MHD_stop_daemon(daemon);
	MHD_destroy_response(response);
	return 0;
}
