/* An estimate on the wire: the document of api, and its verdicts as rows. */
#ifndef SRV_REPORT_H
#define SRV_REPORT_H

#include "config/advice.h"
#include "server/formats.h"
#include "server/reply.h"

/* An estimate with what was asked for beside it. */
struct srv_estimate {
	const struct cfg_catalog *catalog;
	const struct cfg_request *request;
	const struct est_report *report;
	const struct cfg_advice *advice; /* advice_count of them; NULL: not asked for */
	size_t advice_count;
};

/* Appends the estimate in a format: json is the whole document, table a summary and the verdicts, the others the
 * verdicts. Short-lived rows are taken from arena; rows has room for report->fit_count pointers. False when the arena
 * is too small. */
bool srv_report_write(struct srv_buffer *buffer, enum srv_format format, const struct srv_estimate *estimate,
		      struct est_arena *arena, const void **rows);

/* Bytes of arena that srv_report_write() takes for that many verdicts. */
size_t srv_report_arena_size(size_t fit_count);

#endif
