/* The words of the wire: one list for each enumerated field. A list ends with a row without name. */
#ifndef EST_WORDS_H
#define EST_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A word of the wire and its value. Aliases are further rows with alias = true, after the word they stand for. */
struct est_word {
	const char *name;
	int value;
	bool alias;
};

extern const struct est_word est_framework_words[], est_method_words[], est_precision_words[], est_dtype_words[];
extern const struct est_word est_base_dtype_words[], est_optimizer_words[], est_checkpointing_words[];
extern const struct est_word est_selective_words[], est_attention_words[], est_loss_words[], est_strategy_words[];
extern const struct est_word est_context_backend_words[], est_pipeline_schedule_words[], est_wrap_words[];
extern const struct est_word est_auto_words[], est_device_words[], est_all_linear_words[];
extern const struct est_word est_quantization_words[], est_storage_words[], est_objective_words[];
extern const struct est_word est_reference_words[], est_task_words[], est_accounting_words[], est_include_words[];
extern const struct est_word est_timeline_words[];

/* The wire's word for value; "" when words has none. */
const char *est_word_name(const struct est_word *words, int value);

/* The row of words whose name is the length bytes at text, letter case regarded not at all; NULL when there is none. */
const struct est_word *est_word_find(const struct est_word *words, const char *text, size_t length);

/* "a, b or c": every word that is no alias, into text (size bytes, cut when short). Returns text. */
const char *est_word_list(const struct est_word *words, char *text, size_t size);

/* text to to, which has size bytes (1 at least), cut where it does not fit. Returns the length there. */
size_t est_copy_text(char *to, size_t size, const char *text);
/* The same with a whole number in decimal: as printf() would, in a fraction of the time. */
void est_whole_text(int64_t value, char *text, size_t size);

#endif
