/* What the fuzz targets share. A target is one file with LLVMFuzzerTestOneInput(): it takes any bytes, and ends the
 * process when a rule is broken. With clang it is linked with libFuzzer (script/fuzz), else with replay.c, which
 * plays the inputs that are kept. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Where the catalogues lie: below VRAMCAST_SOURCE, or the current directory when that is not set. Static. */
const char *fuzz_directory(void);

/* The catalogue that lies there, opened at the first call and never closed. */
const struct cfg_catalog *fuzz_catalog(void);

/* Work space for an estimate and the limits of FUZZ_CARDS cards, empty; the same memory at every call. */
enum { FUZZ_CARDS = 4 };
struct est_arena *fuzz_arena(void);

/* Ends the process, saying what is broken, unless holds. */
void fuzz_require(bool holds, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* data as JSON, read as the wire reads a body; new reference. NULL: it is none, and the reason was fit to be sent. */
json_t *fuzz_parse(const uint8_t *data, size_t size);

/* The faults of a refusal are fit to be sent: there are some, each with a JSON pointer and a sentence in UTF-8. */
void fuzz_check_faults(const struct est_faults *faults);

/* A request that was read: every field in its range, cards to judge. */
void fuzz_check_request(const struct cfg_request *request);

/* Reads body as a request; whether it is one. What was read or refused is checked. */
bool fuzz_read(const json_t *body, struct cfg_request *ret);

/* Prints request when VRAMCAST_VERBOSE is set: of an input that a sanitizer ends. */
void fuzz_tell(const struct cfg_request *request);

/* Estimates a request on its first cards, and holds the answer to tests/rules.h. */
void fuzz_estimate(const struct cfg_request *request);

#endif
