/* The service's life: settings, catalogues, sockets, loops, signals; torn down in reverse. */
#ifndef SRV_SERVE_H
#define SRV_SERVE_H

#include "config/config.h"

/* Serves until SIGTERM or SIGINT, reloads on SIGHUP. The exit status; what went wrong is on standard error. */
int srv_serve(const struct cfg_settings *settings);

#endif
