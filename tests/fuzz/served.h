/* What the targets that ask the service share: the service on the project's own catalogues. */
#ifndef TESTS_FUZZ_SERVED_H
#define TESTS_FUZZ_SERVED_H

#include "server/service.h"
#include "tests/fuzz/fuzz.h"

/* The service, made at the first call. */
static inline struct srv_service *served(void)
{
	static const char *const origins[] = { "https://example.org" };
	static struct srv_service service;
	static struct srv_edition *edition;
	char error[512];

	if (edition)
		return &service;
	fuzz_catalog(); /* which prepares jansson */
	edition = srv_edition_create(fuzz_directory(), NULL, error, sizeof(error));
	fuzz_require(edition != NULL, "%s", error);
	srv_service_init(&service, edition, origins, 1);
	return &service;
}

/* A context of the service, made at the first call. */
static inline struct srv_context *served_context(void)
{
	static struct srv_context *context;

	if (!context)
		context = srv_context_create(served());
	fuzz_require(context != NULL, "memory is short");
	return context;
}

/* Whether an answer may have that status: a fault of the client's is never the server's. */
static inline bool served_status_is_fit(int status)
{
	return status >= 200 && (status < 500 || status == 501);
}

#endif
