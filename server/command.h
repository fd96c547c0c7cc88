/* The command line without a server: the same answer, and an exit status to decide by. */
#ifndef SRV_COMMAND_H
#define SRV_COMMAND_H

#include "config/config.h"

/* vramcast estimate: reads a request from settings->file, answers it on standard output (a problem on standard
 * error), and returns the exit status: 0 when it fits on every card that is named (on any, when none is), 1 when it
 * does not, 2 when the request is wrong, 3 when the program could not do its work. */
int srv_command_estimate(const struct cfg_settings *settings);

#endif
