#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "config/config.h"

enum option_kind {
	OPTION_LISTEN,  /* a list of ADDR:PORT */
	OPTION_ORIGIN,  /* a list of origins */
	OPTION_INT,
	OPTION_SIZE,
	OPTION_TEXT,
	OPTION_GPU,     /* a list of ids or aliases */
	OPTION_FORMAT,  /* text or json */
	OPTION_URL,     /* the URL of an action */
	OPTION_ACTION   /* no value */
};

struct option {
	const char *name;
	enum option_kind kind;
	size_t offset; /* OPTION_INT, OPTION_SIZE, OPTION_TEXT, OPTION_URL: the member of struct cfg_settings */
	long long min, max;
	enum cfg_action action;
};

#define MEMBER(member) offsetof(struct cfg_settings, member)

/* clang-format off */
static const struct option options[] = {
	{ "--listen", .kind = OPTION_LISTEN },
	{ "--threads", .kind = OPTION_INT, .offset = MEMBER(threads), .min = 0, .max = 1024 },
	{ "--max-body", .kind = OPTION_SIZE, .offset = MEMBER(max_body), .min = 1, .max = 1 << 30 },
	{ "--max-connections", .kind = OPTION_INT, .offset = MEMBER(max_connections), .min = 1, .max = 1 << 20 },
	{ "--catalog", .kind = OPTION_TEXT, .offset = MEMBER(catalog_directory) },
	{ "--token-file", .kind = OPTION_TEXT, .offset = MEMBER(token_file) },
	{ "--cors-origin", .kind = OPTION_ORIGIN },
	{ "--log-format", .kind = OPTION_FORMAT },
	{ "--gpu", .kind = OPTION_GPU },
	{ "--format", .kind = OPTION_TEXT, .offset = MEMBER(format) },
	{ "--check", .kind = OPTION_ACTION, .action = CFG_CHECK },
	{ "--healthcheck", .kind = OPTION_URL, .offset = MEMBER(healthcheck_url), .action = CFG_HEALTHCHECK },
	{ "--version", .kind = OPTION_ACTION, .action = CFG_VERSION },
	{ "--help", .kind = OPTION_ACTION, .action = CFG_HELP },
};
/* clang-format on */
enum { OPTIONS = sizeof(options) / sizeof(options[0]) };

static const char help[] =
	"vramcast: estimates the GPU memory of a fine-tuning run, over HTTP.\n"
	"\n"
	"  vramcast [OPTION]...                               serves\n"
	"  vramcast estimate [FILE|-] [--gpu ID]... [OPTION]  answers one request (JSON) and exits: 0 it fits on every GPU\n"
	"                                                     named (on any, when none is), 1 it does not, 2 a bad request\n"
	"\n"
	"  --listen ADDR:PORT       where to listen, up to 16 times (127.0.0.1:8080); port 0: a free one\n"
	"  --threads N              event loops (0: one for each core)\n"
	"  --max-body BYTES         longest request body (1048576)\n"
	"  --max-connections N      open connections, all loops together (4096)\n"
	"  --catalog DIR            directory of models.json and gpus.json (the installed one)\n"
	"  --token-file FILE        bearer tokens, one a line: only who sends one is answered (none is needed)\n"
	"  --cors-origin ORIGIN     origin whose pages may call the service, or *; up to 16 times (none)\n"
	"  --log-format text|json   how lines of the log are written (text)\n"
	"  --gpu ID                 estimate: judge this GPU, up to 64 times (the request's, or all)\n"
	"  --format NAME            estimate: json, csv, ndjson, records or table (json)\n"
	"  --check                  check the catalogues and exit\n"
	"  --healthcheck URL        ask a running service whether it is well, and exit\n"
	"  --version                print the version and exit\n"
	"  --help                   print this and exit\n";

/* Where a fault is told. */
struct complaint {
	char *error;
	size_t size;
};

/* text is what is wrong with the option called name; always false. */
static bool complain(const struct complaint *complaint, const char *name, const char *text)
{
	snprintf(complaint->error, complaint->size, "%s %s", name, text);
	return false;
}

static bool is_port(const char *text)
{
	return *text && strspn(text, "0123456789") == strlen(text) && strlen(text) <= 5 && atoi(text) <= 65535;
}

/* ADDR:PORT, with brackets around an address that has colons itself. */
static bool is_listen_address(const char *text)
{
	const char *colon = strrchr(text, ':');
	size_t address = colon ? (size_t)(colon - text) : 0;

	if (!address || !is_port(colon + 1))
		return false;
	if (text[0] == '[')
		return address > 2 && colon[-1] == ']' && !memchr(text + 1, '[', address - 1);
	return !memchr(text, ':', address) && !memchr(text, ']', address);
}

static bool is_origin(const char *text)
{
	const char *host = strstr(text, "://");

	if (!strcmp(text, "*"))
		return true;
	return host && host > text && host[3] && !strpbrk(host + 3, "/?# \r\n") && !strpbrk(text, " \r\n,");
}

static bool add_listen(struct cfg_settings *settings, const char *value, const struct complaint *complaint)
{
	if (!is_listen_address(value))
		return complain(complaint, "--listen", "must be ADDR:PORT, as 127.0.0.1:8080 or [::1]:8080");
	if (settings->listen_count == CFG_LISTEN_MAX)
		return complain(complaint, "--listen", "may be given 16 times at most");
	settings->listen[settings->listen_count++] = value;
	return true;
}

static bool add_origin(struct cfg_settings *settings, const char *value, const struct complaint *complaint)
{
	if (!is_origin(value))
		return complain(complaint, "--cors-origin", "must be * or an origin, as https://example.org");
	if (settings->origin_count == CFG_ORIGINS_MAX)
		return complain(complaint, "--cors-origin", "may be given 16 times at most");
	settings->cors_origin[settings->origin_count++] = value;
	return true;
}

static bool add_gpu(struct cfg_settings *settings, const char *value, const struct complaint *complaint)
{
	if (!*value)
		return complain(complaint, "--gpu", "must not be empty");
	if (settings->gpu_count == CFG_GPUS_MAX)
		return complain(complaint, "--gpu", "may be given 64 times at most");
	settings->gpu[settings->gpu_count++] = value;
	return true;
}

static bool set_number(const struct option *option, struct cfg_settings *settings, const char *value,
		       const struct complaint *complaint)
{
	char *member = (char *)settings + option->offset, *end, text[96];
	long long number;

	errno = 0;
	number = strtoll(value, &end, 10);
	if (errno || *end || strspn(value, "0123456789") == 0 || number < option->min || number > option->max) {
		snprintf(text, sizeof(text), "must be a whole number from %lld to %lld", option->min, option->max);
		return complain(complaint, option->name, text);
	}
	if (option->kind == OPTION_INT)
		memcpy(member, &(int){ (int)number }, sizeof(int));
	else
		memcpy(member, &(size_t){ (size_t)number }, sizeof(size_t));
	return true;
}

static bool set_text(const struct option *option, struct cfg_settings *settings, const char *value,
		     const struct complaint *complaint)
{
	if (!*value)
		return complain(complaint, option->name, "must not be empty");
	if (option->kind == OPTION_URL && strncmp(value, "http://", 7) != 0)
		return complain(complaint, option->name, "must be a URL that begins with http://");
	memcpy((char *)settings + option->offset, &value, sizeof(value));
	return true;
}

static bool set_format(struct cfg_settings *settings, const char *value, const struct complaint *complaint)
{
	settings->log_json = !strcmp(value, "json");
	if (settings->log_json || !strcmp(value, "text"))
		return true;
	return complain(complaint, "--log-format", "must be text or json");
}

/* One action at a time; --help wins over all. */
static bool set_action(const struct option *option, struct cfg_settings *settings, const struct complaint *complaint)
{
	if (settings->action == CFG_HELP)
		return true;
	if (settings->action != CFG_SERVE && settings->action != option->action && option->action != CFG_HELP)
		return complain(complaint, option->name, "cannot go with estimate, --check, --healthcheck or --version");
	settings->action = option->action;
	return true;
}

static bool apply(const struct option *option, struct cfg_settings *settings, const char *value,
		  const struct complaint *complaint)
{
	switch (option->kind) {
	case OPTION_LISTEN:
		return add_listen(settings, value, complaint);
	case OPTION_ORIGIN:
		return add_origin(settings, value, complaint);
	case OPTION_GPU:
		return add_gpu(settings, value, complaint);
	case OPTION_INT:
	case OPTION_SIZE:
		return set_number(option, settings, value, complaint);
	case OPTION_TEXT:
		return set_text(option, settings, value, complaint);
	case OPTION_FORMAT:
		return set_format(settings, value, complaint);
	case OPTION_URL:
		return set_text(option, settings, value, complaint) && set_action(option, settings, complaint);
	case OPTION_ACTION:
		return set_action(option, settings, complaint);
	}
	return false;
}

static const struct option *find_option(const char *name, size_t length)
{
	for (size_t i = 0; i < OPTIONS; i++)
		if (strlen(options[i].name) == length && !strncmp(options[i].name, name, length))
			return &options[i];
	return NULL;
}

static bool complain_unknown(const char *argument, const struct complaint *complaint)
{
	struct cfg_suggestion suggestion;

	cfg_suggestion_init(&suggestion, argument);
	for (size_t i = 0; i < OPTIONS; i++)
		cfg_suggestion_offer(&suggestion, options[i].name);
	if (suggestion.nearest)
		snprintf(complaint->error, complaint->size, "%.64s is not an option (did you mean %s?)", argument,
			 suggestion.nearest);
	else
		snprintf(complaint->error, complaint->size, "%.64s is not an option; --help lists them", argument);
	return false;
}

/* A word that is no option: the command, then its file. */
static bool read_word(const char *word, struct cfg_settings *settings, const struct complaint *complaint)
{
	if (settings->action == CFG_SERVE && !strcmp(word, "estimate"))
		settings->action = CFG_ESTIMATE;
	else if (settings->action == CFG_ESTIMATE && !settings->file)
		settings->file = word;
	else
		return complain_unknown(word, complaint);
	return true;
}

/* Reads argv[*index] and, where it is the value of that option, the argument after it. */
static bool read_argument(int argc, char **argv, int *index, struct cfg_settings *settings,
			  const struct complaint *complaint)
{
	const char *argument = argv[*index], *equals = strchr(argument, '=');
	const struct option *option = find_option(argument, equals ? (size_t)(equals - argument) : strlen(argument));
	bool takes_value = option && option->kind != OPTION_ACTION;

	if (argument[0] != '-' || !argument[1])
		return read_word(argument, settings, complaint);
	if (!option)
		return complain_unknown(argument, complaint);
	if (!takes_value && equals)
		return complain(complaint, option->name, "takes no value");
	if (takes_value && !equals && *index + 1 == argc)
		return complain(complaint, option->name, "needs a value");
	if (!takes_value)
		return apply(option, settings, NULL, complaint);
	return apply(option, settings, equals ? equals + 1 : argv[++*index], complaint);
}

bool cfg_settings_read(int argc, char **argv, struct cfg_settings *ret, char *error, size_t size)
{
	struct cfg_settings settings = { .max_body = 1 << 20, .max_connections = 4096 };
	const struct complaint complaint = { error, size };

	for (int i = 1; i < argc; i++)
		if (!read_argument(argc, argv, &i, &settings, &complaint))
			return false;
	if (settings.action != CFG_ESTIMATE && settings.action != CFG_HELP && (settings.gpu_count || settings.format))
		return complain(&complaint, settings.gpu_count ? "--gpu" : "--format", "goes only with the command estimate");
	if (!settings.listen_count)
		settings.listen[settings.listen_count++] = "127.0.0.1:8080";
	*ret = settings;
	return true;
}

const char *cfg_settings_help(void)
{
	return help;
}

const char *cfg_settings_catalog(const struct cfg_settings *settings)
{
	if (settings->catalog_directory)
		return settings->catalog_directory;
	if (access(CFG_INSTALLED_CATALOG "/models.json", R_OK) == 0)
		return CFG_INSTALLED_CATALOG;
	return CFG_SOURCE_CATALOG;
}
