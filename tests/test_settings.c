#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/config.h"
#include "tests/suite.h"

enum { WORDS_MAX = 48 };

/* Splits line at blanks (in place) and reads it as a command line. */
static bool read_line(const char *line, struct cfg_settings *ret, char *error, size_t size)
{
	static char text[1024], program[] = "vramcast";
	char *argv[WORDS_MAX] = { program };
	int argc = 1;

	snprintf(text, sizeof(text), "%s", line);
	for (char *word = strtok(text, " "); word && argc < WORDS_MAX; word = strtok(NULL, " "))
		argv[argc++] = word;
	return cfg_settings_read(argc, argv, ret, error, size);
}

START_TEST(without_arguments_it_serves_on_loopback)
{
	struct cfg_settings settings;
	char error[256] = "";

	ck_assert(read_line("", &settings, error, sizeof(error)));
	ck_assert_int_eq(settings.action, CFG_SERVE);
	ck_assert_int_eq(settings.listen_count, 1);
	ck_assert_str_eq(settings.listen[0], "127.0.0.1:8080");
	ck_assert_int_eq(settings.threads, 0);
	ck_assert_uint_eq(settings.max_body, 1048576);
	ck_assert_int_eq(settings.max_connections, 4096);
	ck_assert_ptr_null(settings.catalog_directory);
	ck_assert_int_eq(settings.origin_count, 0);
	ck_assert(!settings.log_json);
}
END_TEST

START_TEST(every_option_arrives)
{
	struct cfg_settings settings;
	char error[256] = "";

	ck_assert(read_line("--listen 0.0.0.0:80 --listen=[::1]:0 --threads 3 --max-body=4096 --max-connections 64 "
			    "--catalog /srv/catalog --token-file /etc/tokens --cors-origin https://a.example --cors-origin=* --log-format json",
			    &settings, error, sizeof(error)));
	ck_assert_int_eq(settings.listen_count, 2);
	ck_assert_str_eq(settings.listen[0], "0.0.0.0:80");
	ck_assert_str_eq(settings.listen[1], "[::1]:0");
	ck_assert_int_eq(settings.threads, 3);
	ck_assert_uint_eq(settings.max_body, 4096);
	ck_assert_int_eq(settings.max_connections, 64);
	ck_assert_str_eq(settings.catalog_directory, "/srv/catalog");
	ck_assert_str_eq(settings.token_file, "/etc/tokens");
	ck_assert_int_eq(settings.origin_count, 2);
	ck_assert_str_eq(settings.cors_origin[0], "https://a.example");
	ck_assert_str_eq(settings.cors_origin[1], "*");
	ck_assert(settings.log_json);
}
END_TEST

static const struct {
	const char *line;
	enum cfg_action action;
} actions[] = {
	{ "--check", CFG_CHECK },
	{ "estimate", CFG_ESTIMATE },
	{ "estimate --help", CFG_HELP },
	{ "--check --catalog /srv", CFG_CHECK },
	{ "--version", CFG_VERSION },
	{ "--help", CFG_HELP },
	{ "--check --help", CFG_HELP },
	{ "--help --version", CFG_HELP },
	{ "--healthcheck http://127.0.0.1:8080/healthz", CFG_HEALTHCHECK },
};

START_TEST(an_action_is_read)
{
	struct cfg_settings settings;
	char error[256] = "";

	ck_assert_msg(read_line(actions[_i].line, &settings, error, sizeof(error)), "%s: %s", actions[_i].line, error);
	ck_assert_int_eq(settings.action, actions[_i].action);
	if (settings.action == CFG_HEALTHCHECK)
		ck_assert_str_eq(settings.healthcheck_url, "http://127.0.0.1:8080/healthz");
}
END_TEST

static const char *const addresses[] = { "127.0.0.1:8080", "localhost:0", "[::1]:65535", "[fe80::1%eth0]:80",
	"0.0.0.0:1" };

START_TEST(an_address_with_a_port_is_listened_on)
{
	struct cfg_settings settings;
	char error[256] = "", line[128];

	snprintf(line, sizeof(line), "--listen %s", addresses[_i]);
	ck_assert_msg(read_line(line, &settings, error, sizeof(error)), "%s: %s", addresses[_i], error);
	ck_assert_str_eq(settings.listen[0], addresses[_i]);
}
END_TEST

START_TEST(an_estimate_takes_a_file_and_cards)
{
	struct cfg_settings settings;
	char error[256] = "";

	ck_assert(read_line("estimate request.json --gpu t4 --gpu=l4 --format csv --catalog x", &settings, error,
			    sizeof(error)));
	ck_assert_str_eq(settings.file, "request.json");
	ck_assert_int_eq(settings.gpu_count, 2);
	ck_assert_str_eq(settings.gpu[1], "l4");
	ck_assert_str_eq(settings.format, "csv");
	ck_assert(read_line("--gpu t4 estimate -", &settings, error, sizeof(error)));
	ck_assert_str_eq(settings.file, "-");
	ck_assert(read_line("estimate", &settings, error, sizeof(error)));
	ck_assert_ptr_null(settings.file);
}
END_TEST

/* Faulty lines and a piece of what is said. */
static const struct {
	const char *line, *says;
} faults[] = {
	{ "--listen", "--listen needs a value" },
	{ "--listen 8080", "--listen must be ADDR:PORT" },
	{ "--listen :8080", "--listen must be ADDR:PORT" },
	{ "--listen ::1:8080", "[::1]:8080" },
	{ "--listen []:8080", "--listen must be ADDR:PORT" },
	{ "--listen [::1]", "--listen must be ADDR:PORT" },
	{ "--listen 127.0.0.1:65536", "--listen must be ADDR:PORT" },
	{ "--listen 127.0.0.1:-1", "--listen must be ADDR:PORT" },
	{ "--listen 127.0.0.1:80x", "--listen must be ADDR:PORT" },
	{ "--listen=", "--listen must be ADDR:PORT" },
	{ "--threads x", "--threads must be a whole number from 0 to 1024" },
	{ "--threads=", "--threads must be a whole number" },
	{ "--threads -1", "--threads must be a whole number" },
	{ "--threads +1", "--threads must be a whole number" },
	{ "--threads 1025", "--threads must be a whole number" },
	{ "--threads 1.5", "--threads must be a whole number" },
	{ "--max-body 0", "--max-body must be a whole number from 1 to 1073741824" },
	{ "--max-body 99999999999999999999", "--max-body must be a whole number" },
	{ "--max-connections 0", "--max-connections must be a whole number" },
	{ "--catalog=", "--catalog must not be empty" },
	{ "--log-format xml", "--log-format must be text or json" },
	{ "--cors-origin example.org", "--cors-origin must be" },
	{ "--cors-origin https://example.org/path", "--cors-origin must be" },
	{ "--healthcheck 127.0.0.1", "--healthcheck must be a URL" },
	{ "--check=yes", "--check takes no value" },
	{ "--check --version", "--version cannot go with" },
	{ "--thread 2", "did you mean --threads?" },
	{ "-h", "-h is not an option" },
	{ "--gpu t4", "--gpu goes only with the command estimate" },
	{ "--check --format csv", "--format goes only with" },
	{ "estimate --gpu=", "--gpu must not be empty" },
	{ "estimate a b", "b is not an option" },
	{ "estimate --check", "--check cannot go with" },
	{ "serve", "serve is not an option; --help lists them" },
	{ "--listen a:1 --listen a:1 --listen a:1 --listen a:1 --listen a:1 --listen a:1 --listen a:1 --listen a:1 "
	  "--listen a:1 --listen a:1 --listen a:1 --listen a:1 --listen a:1 --listen a:1 --listen a:1 --listen a:1 "
	  "--listen a:1", "16 times" },
};

START_TEST(a_bad_argument_is_told_in_one_line)
{
	struct cfg_settings settings;
	char error[256] = "";

	ck_assert_msg(!read_line(faults[_i].line, &settings, error, sizeof(error)), "%s", faults[_i].line);
	ck_assert_msg(strstr(error, faults[_i].says), "%s: %s", faults[_i].line, error);
	ck_assert_ptr_null(strchr(error, '\n'));
}
END_TEST

static const char *const options[] = { "--listen ADDR:PORT", "--threads N", "--max-body BYTES", "--max-connections N",
	"--catalog DIR", "--cors-origin ORIGIN", "--log-format text|json", "--check", "--healthcheck URL", "--version",
	"--help" };

START_TEST(help_tells_every_option)
{
	ck_assert_ptr_nonnull(strstr(cfg_settings_help(), options[_i]));
}
END_TEST

START_TEST(the_catalogues_are_found_without_being_named)
{
	struct cfg_settings settings;
	struct cfg_catalog *catalog;
	char error[256] = "";

	ck_assert(read_line("", &settings, error, sizeof(error)));
	catalog = cfg_catalog_create(cfg_settings_catalog(&settings), error, sizeof(error));
	ck_assert_msg(catalog, "%s", error);
	cfg_catalog_destroy(catalog);
	ck_assert(read_line("--catalog /nowhere", &settings, error, sizeof(error)));
	ck_assert_str_eq(cfg_settings_catalog(&settings), "/nowhere");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("settings");
	TCase *test = tcase_create("settings");

	tcase_add_test(test, without_arguments_it_serves_on_loopback);
	tcase_add_test(test, every_option_arrives);
	tcase_add_loop_test(test, an_action_is_read, 0, COUNT(actions));
	tcase_add_loop_test(test, an_address_with_a_port_is_listened_on, 0, COUNT(addresses));
	tcase_add_test(test, an_estimate_takes_a_file_and_cards);
	tcase_add_loop_test(test, a_bad_argument_is_told_in_one_line, 0, COUNT(faults));
	tcase_add_loop_test(test, help_tells_every_option, 0, COUNT(options));
	tcase_add_test(test, the_catalogues_are_found_without_being_named);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
