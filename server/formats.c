#include "server/formats.h"
#include <string.h>
#include <strings.h>

static const struct {
	const char *name, *media_type, *range; /* range: as a client writes it, type and subtype alone */
} formats[SRV_FORMATS] = {
	[SRV_JSON] = { "json", "application/json", "application/json" },
	[SRV_CSV] = { "csv", "text/csv; charset=utf-8; header=present", "text/csv" },
	[SRV_NDJSON] = { "ndjson", "application/x-ndjson", "application/x-ndjson" },
	[SRV_RECORDS] = { "records", "application/json", "application/vnd.vramcast.records+json" },
	[SRV_FOR_PEOPLE] = { "table", "text/plain; charset=utf-8", "text/plain" },
};

const char *srv_format_media_type(enum srv_format format)
{
	return formats[format].media_type;
}

bool srv_format_find(const char *name, size_t length, enum srv_format *ret_format)
{
	for (int i = 0; i < SRV_FORMATS; i++) {
		if (strlen(formats[i].name) != length || strncasecmp(formats[i].name, name, length))
			continue;
		*ret_format = (enum srv_format)i;
		return true;
	}
	return false;
}

/* One element of Accept: a range and its q. */
struct range {
	const char *name;
	size_t length;
	int quality; /* thousandths */
};

/* The value of q in the parameters from text to end, in thousandths; 1000 without one. */
static int read_quality(const char *text, const char *end)
{
	int quality = 0, unit = 1000;

	while (text < end) {
		text += strspn(text, "; \t");
		if (end - text > 2 && (*text == 'q' || *text == 'Q') && text[1] == '=')
			break;
		while (text < end && *text != ';')
			text++;
	}
	if (text >= end)
		return 1000;
	for (text += 2; text < end && unit; text++) {
		if (*text == '.')
			continue;
		if (*text < '0' || *text > '9')
			break;
		quality += (*text - '0') * unit;
		unit /= 10;
	}
	return quality > 1000 ? 1000 : quality;
}

/* Takes the element at *cursor and moves on behind its comma. */
static bool next_range(const char **cursor, struct range *ret)
{
	const char *text = *cursor + strspn(*cursor, ", \t"), *end = text + strcspn(text, ",");

	if (!*text)
		return false;
	ret->name = text;
	ret->length = strcspn(text, ";, \t");
	ret->quality = read_quality(text + ret->length, end);
	*cursor = end;
	return true;
}

/* How exactly range covers type: 3 by name, 2 "type/star", 1 any, 0 not at all. */
static int exactness(const struct range *range, const char *type)
{
	size_t family = strcspn(type, "/") + 1;

	if (range->length == strlen(type) && !strncasecmp(range->name, type, range->length))
		return 3;
	if (range->length == family + 1 && range->name[family] == '*' && !strncasecmp(range->name, type, family))
		return 2;
	return range->length == 3 && !strncmp(range->name, "*/*", 3);
}

/* The quality that accept gives to type: that of the range which names it most exactly. */
static int quality_of(const char *accept, const char *type, int *ret_exactness)
{
	struct range range;
	int best = 0, quality = 0;

	while (next_range(&accept, &range)) {
		int exact = exactness(&range, type);

		if (exact > best) {
			best = exact;
			quality = range.quality;
		}
	}
	*ret_exactness = best;
	return quality;
}

bool srv_format_negotiate(const char *accept, enum srv_format *ret_format)
{
	int best = 0;

	if (!accept || !accept[strspn(accept, ", \t")]) {
		*ret_format = SRV_JSON;
		return true;
	}
	for (int i = 0; i < SRV_FORMATS; i++) {
		int exact, rank = quality_of(accept, formats[i].range, &exact);

		rank = rank ? rank * 4 + exact : 0;
		if (rank <= best)
			continue;
		best = rank;
		*ret_format = (enum srv_format)i;
	}
	return best > 0;
}
