/* The open connections of a loop, and the reaper of those that take too long. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include "server/http.h"

uint64_t srv_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static void read_remote(const struct sockaddr *client, char *ret, size_t size)
{
	const void *address = NULL;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;

	snprintf(ret, size, "-");
	if (!client)
		return;
	if (client->sa_family == AF_INET)
		address = &((struct sockaddr_in *)memcpy(&v4, client, sizeof v4))->sin_addr;
	else if (client->sa_family == AF_INET6)
		address = &((struct sockaddr_in6 *)memcpy(&v6, client, sizeof v6))->sin6_addr;
	if (address && !inet_ntop(client->sa_family, address, ret, (socklen_t)size))
		snprintf(ret, size, "-");
}

struct srv_connection *srv_http_open(struct srv_http *http, int fd, const struct sockaddr *address)
{
	struct srv_connection *peer = calloc(1, sizeof *peer);

	if (!peer)
		return NULL; /* served all the same, under libmicrohttpd's own timeout alone */
	peer->fd = fd;
	peer->since = srv_now();
	read_remote(address, peer->remote, sizeof peer->remote);
	peer->next = http->connections;
	if (peer->next)
		peer->next->previous = peer;
	http->connections = peer;
	return peer;
}

void srv_http_close(struct srv_http *http, struct srv_connection *peer)
{
	if (!peer)
		return;
	if (peer->next)
		peer->next->previous = peer->previous;
	if (peer->previous)
		peer->previous->next = peer->next;
	else
		http->connections = peer->next;
	free(peer);
}

void srv_http_reap(struct srv_http *http)
{
	uint64_t now = srv_now();

	for (struct srv_connection *peer = http->connections; peer; peer = peer->next) {
		bool idle = !peer->busy && peer->used;
		uint64_t limit =
			(uint64_t)(idle ? http->intake->limits.idle_ms : http->intake->limits.deadline_ms) * 1000000;

		if (peer->cut || peer->waits || peer->fd < 0 || now - peer->since < limit)
			continue;
		shutdown(peer->fd, SHUT_RDWR);
		peer->cut = true;
		if (!idle)
			srv_metric_add(&http->context->metrics.deadlines, 1);
	}
}
