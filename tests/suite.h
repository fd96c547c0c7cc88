/* What every program of unit tests needs: Check, the size of a table of cases, and the end of main(). */
#ifndef TESTS_SUITE_H
#define TESTS_SUITE_H

#include <check.h>

#define COUNT(table) (int)(sizeof(table) / sizeof((table)[0]))

/* Runs the suite, as the environment says (TAP, quietly), and gives up its memory. The exit status of main(). */
static inline int run_suite(Suite *suite)
{
	SRunner *runner = srunner_create(suite);
	int failed;

	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}

#endif
