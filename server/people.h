/* An estimate for people in a terminal: what stands above its verdicts, and below them. */
#ifndef SRV_PEOPLE_H
#define SRV_PEOPLE_H

#include "config/config.h"
#include "server/buffer.h"

/* Appends what is run, the components in GiB and the peak; ends with an empty line. */
void srv_write_summary(struct srv_buffer *buffer, const struct cfg_request *request, const struct est_report *report);

/* Appends what is warned of and what was assumed, behind an empty line each: with the reason where there is one, the
 * plain defaults together in a few lines. */
void srv_write_remarks(struct srv_buffer *buffer, const struct cfg_request *request, const struct est_report *report);

#endif
