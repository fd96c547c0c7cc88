/* What the service manager is told, by the protocol of sd_notify(3): nothing when there is none. */
#ifndef SRV_NOTIFY_H
#define SRV_NOTIFY_H

#include <stdint.h>

/* "READY=1", or several assignments, a line each. */
void srv_notify(const char *state);

/* How often, in nanoseconds, the manager wants to hear "WATCHDOG=1" at least; 0: never. */
uint64_t srv_notify_watchdog(void);

#endif
