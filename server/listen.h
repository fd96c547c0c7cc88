/* Sockets of our own: listening ones, and the one of a health check. */
#ifndef SRV_LISTEN_H
#define SRV_LISTEN_H

#include <stddef.h>

/* A listening socket, not blocking, for "127.0.0.1:8080", "[::1]:0" or "localhost:8080". -1 and one line in error when
 * the address is not one, or taken. */
int srv_listen(const char *address, char *error, size_t size);

/* The listening sockets that the service manager opened and passed, as sd_listen_fds(3) says: their number, 0 when
 * there are none, -1 and one line in error when something else was passed or more than max. Made not blocking. */
int srv_listen_inherited(int *ret_fds, int max, char *error, size_t size);

/* "http://127.0.0.1:43210": where fd listens. */
void srv_listen_url(int fd, char *ret, size_t size);

/* Makes room for connections descriptors and some more: raises the soft limit when it is too low. How many connections
 * there is room for in fact; 0 when there is no room to speak of. */
unsigned srv_listen_room(unsigned connections);

/* GETs url (http only) within timeout_ms. The status; -1 and one line in error when there was none. */
int srv_fetch_status(const char *url, int timeout_ms, char *error, size_t size);

#endif
