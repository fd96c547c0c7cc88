#include "server/listen.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { BACKLOG = 1024, SPARE_DESCRIPTORS = 64, HOST_MAX = 256, PORT_MAX = 8, LEAST_CONNECTIONS = 4,
       FIRST_PASSED = 3 };

struct address {
	char host[HOST_MAX], port[PORT_MAX];
};

/* "host:port" or "[host]:port"; without a port that is fallback (NULL: it has to be there). */
static bool split_address(const char *text, size_t length, const char *fallback, struct address *ret)
{
	const char *end = text + length, *host = text, *colon = NULL;
	size_t host_length;

	for (const char *at = text; at < end; at++)
		colon = *at == ':' ? at : colon;
	if (length && *text == '[') {
		const char *bracket = memchr(text, ']', length);

		if (!bracket || (bracket + 1 < end && bracket + 1 != colon))
			return false;
		host++;
		host_length = (size_t)(bracket - host);
		colon = bracket + 1 < end ? colon : NULL;
	} else {
		host_length = (size_t)((colon ? colon : end) - text);
		if (memchr(host, ':', host_length))
			return false; /* an IPv6 address without brackets */
	}
	if (!host_length || host_length >= sizeof ret->host || (!colon && !fallback))
		return false;
	snprintf(ret->host, sizeof ret->host, "%.*s", (int)host_length, host);
	snprintf(ret->port, sizeof ret->port, "%.*s", colon ? (int)(end - colon - 1 < 7 ? end - colon - 1 : 7) : 7,
		 colon ? colon + 1 : fallback);
	return *ret->port && strspn(ret->port, "0123456789") == strlen(ret->port) && atol(ret->port) <= 65535;
}

static int resolve(const struct address *address, int flags, struct addrinfo **ret)
{
	const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags };

	return getaddrinfo(address->host, address->port, &hints, ret);
}

static int open_listener(const struct addrinfo *info)
{
	const int on = 1;
	int fd = socket(info->ai_family, info->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, info->ai_protocol);

	if (fd < 0)
		return -1;
	/* SO_REUSEADDR only: with SO_REUSEPORT a second copy would share the port silently */
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on)
	    || (info->ai_family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on))
	    || bind(fd, info->ai_addr, info->ai_addrlen) || listen(fd, BACKLOG)) {
		int saved = errno;

		close(fd);
		errno = saved;
		return -1;
	}
	return fd;
}

int srv_listen(const char *address, char *error, size_t size)
{
	struct address parts;
	struct addrinfo *found;
	int failed, fd;

	if (!split_address(address, strlen(address), NULL, &parts)) {
		snprintf(error, size, "%s is not an address: it must be HOST:PORT, an IPv6 one [HOST]:PORT", address);
		return -1;
	}
	failed = resolve(&parts, AI_PASSIVE | AI_NUMERICSERV, &found);
	if (failed) {
		snprintf(error, size, "cannot listen on %s: %s", address, gai_strerror(failed));
		return -1;
	}
	fd = open_listener(found);
	if (fd < 0)
		snprintf(error, size, "cannot listen on %s: %s", address, strerror(errno));
	freeaddrinfo(found);
	return fd;
}

static bool adopt(int fd)
{
	int listening = 0, flags = fcntl(fd, F_GETFL);
	socklen_t length = sizeof listening;

	return flags >= 0 && !getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) && listening
	       && !fcntl(fd, F_SETFL, flags | O_NONBLOCK) && !fcntl(fd, F_SETFD, FD_CLOEXEC);
}

int srv_listen_inherited(int *ret_fds, int max, char *error, size_t size)
{
	const char *pid = getenv("LISTEN_PID"), *passed = getenv("LISTEN_FDS");
	int count = pid && passed && atol(pid) == (long)getpid() ? atoi(passed) : 0;

	if (count < 0 || count > max) {
		snprintf(error, size, "%d sockets were passed, %d is the most", count, max);
		return -1;
	}
	for (int i = 0; i < count; i++) {
		ret_fds[i] = FIRST_PASSED + i;
		if (!adopt(ret_fds[i])) {
			snprintf(error, size, "descriptor %d, which was passed, is not a listening socket", ret_fds[i]);
			return -1;
		}
	}
	return count;
}

void srv_listen_url(int fd, char *ret, size_t size)
{
	struct sockaddr_storage address;
	socklen_t length = sizeof address;
	char host[HOST_MAX] = "?", port[PORT_MAX] = "?";

	if (!getsockname(fd, (struct sockaddr *)&address, &length))
		getnameinfo((struct sockaddr *)&address, length, host, sizeof host, port, sizeof port,
			    NI_NUMERICHOST | NI_NUMERICSERV);
	snprintf(ret, size, strchr(host, ':') ? "http://[%s]:%s" : "http://%s:%s", host, port);
}

unsigned srv_listen_room(unsigned connections)
{
	struct rlimit limit;
	rlim_t wanted = (rlim_t)connections + SPARE_DESCRIPTORS;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return connections;
	if (limit.rlim_cur < wanted) {
		limit.rlim_cur = limit.rlim_max == RLIM_INFINITY || limit.rlim_max > wanted ? wanted : limit.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &limit) || getrlimit(RLIMIT_NOFILE, &limit))
			getrlimit(RLIMIT_NOFILE, &limit);
	}
	if (limit.rlim_cur >= wanted)
		return connections;
	return limit.rlim_cur < SPARE_DESCRIPTORS + LEAST_CONNECTIONS ? 0
								      : (unsigned)(limit.rlim_cur - SPARE_DESCRIPTORS);
}

/* ---- health check */

static int open_connection(const struct address *address, int timeout_ms)
{
	const struct timeval limit = { .tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000 };
	struct addrinfo *found;
	int fd = -1;

	if (resolve(address, AI_NUMERICSERV, &found)) {
		errno = EADDRNOTAVAIL;
		return -1;
	}
	for (const struct addrinfo *info = found; info && fd < 0; info = info->ai_next) {
		fd = socket(info->ai_family, info->ai_socktype | SOCK_CLOEXEC, info->ai_protocol);
		if (fd < 0)
			continue;
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit); /* bounds connect() too */
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
		if (connect(fd, info->ai_addr, info->ai_addrlen)) {
			int saved = errno;

			close(fd);
			errno = saved;
			fd = -1;
		}
	}
	freeaddrinfo(found);
	return fd;
}

/* Sends the request and reads the status line. The status, or -1. */
static int ask(int fd, const struct address *address, const char *path)
{
	char text[1024];
	size_t used = 0;
	int length = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path,
			      address->host);

	if (length < 0 || (size_t)length >= sizeof text || send(fd, text, (size_t)length, MSG_NOSIGNAL) != length)
		return -1;
	while (used < 12) {
		ssize_t got = recv(fd, text + used, sizeof text - 1 - used, 0);

		if (got <= 0)
			return -1;
		used += (size_t)got;
	}
	text[used] = '\0';
	return strncmp(text, "HTTP/1.1 ", 9) ? -1 : atoi(text + 9);
}

int srv_fetch_status(const char *url, int timeout_ms, char *error, size_t size)
{
	static const char scheme[] = "http://";
	const char *host = url + sizeof scheme - 1;
	struct address address;
	int fd, status;

	if (strncmp(url, scheme, sizeof scheme - 1) || !split_address(host, strcspn(host, "/"), "80", &address)) {
		snprintf(error, size, "%s is not a URL of the form http://HOST:PORT/PATH", url);
		return -1;
	}
	fd = open_connection(&address, timeout_ms);
	if (fd < 0) {
		snprintf(error, size, "cannot connect to %s: %s", url, strerror(errno));
		return -1;
	}
	status = ask(fd, &address, host[strcspn(host, "/")] ? host + strcspn(host, "/") : "/readyz");
	close(fd);
	if (status < 0)
		snprintf(error, size, "%s did not answer", url);
	return status;
}
