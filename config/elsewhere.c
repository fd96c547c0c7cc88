#include "config/elsewhere.h"

#include <string.h>
#include "config/from.h"

/* clang-format off */
const struct cfg_elsewhere_row cfg_elsewhere_rows[] = {
	/* peft.LoraConfig */
	{ "lora.", "r", "lora.rank" }, { "lora.", "lora_rank", "lora.rank" }, { "lora.", "lora_alpha", "lora.alpha" },
	{ "lora.", "lora_dropout", "lora.dropout" }, { "lora.", "use_dora", "lora.dora" }, { "lora.", "use_rslora", "lora.rslora" },
	{ "", "lora_r", "lora.rank" }, { "", "lora_rank", "lora.rank" }, { "", "lora_alpha", "lora.alpha" },
	{ "", "lora_dropout", "lora.dropout" }, { "", "target_modules", "lora.target_modules" },
	/* transformers.BitsAndBytesConfig */
	{ "quantization.", "load_in_4bit", "quantization.bits" }, { "quantization.", "load_in_8bit", "quantization.bits" },
	{ "quantization.", "bnb_4bit_quant_type", "quantization.type" },
	{ "quantization.", "bnb_4bit_use_double_quant", "quantization.double_quant" },
	{ "quantization.", "bnb_4bit_quant_storage", "quantization.quant_storage" },
	{ "", "load_in_4bit", "quantization.bits" }, { "", "load_in_8bit", "quantization.bits" },
	/* transformers.TrainingArguments and from_pretrained(), where they are no row of "from" */
	{ "", "bf16", "precision" }, { "", "fp16", "precision" }, { "", "dtype", "precision" }, { "", "torch_dtype", "precision" },
	{ "", "attn_implementation", "attention" }, { "", "optim", "optimizer" },
	/* calculators */
	{ "", "batch_size", "micro_batch_size" }, { "", "seq_len", "sequence_length" }, { "", "seq_length", "sequence_length" },
	{ "", "max_seq_len", "sequence_length" }, { "", "context_length", "sequence_length" }, { "", "num_gpus", "parallelism.gpus" },
	{ "", "zero_stage", "parallelism.strategy" },
	{ NULL, NULL, NULL }
};
/* clang-format on */

static const char *find_in(const struct cfg_from_row *row, const char *key)
{
	for (; row && row->key; row++)
		if (row->how == CFG_FROM_FIELD && !strcmp(row->key, key))
			return row->field;
	return NULL;
}

static const char *find_in_files(const char *key)
{
	for (size_t i = 0; i < CFG_FORMATS; i++) {
		const struct cfg_from_format *format = cfg_from_formats[i];
		const char *field = find_in(format->rows, key);

		for (size_t j = 0; !field && j < sizeof(format->more) / sizeof(format->more[0]); j++)
			field = find_in(format->more[j], key);
		if (field)
			return field;
	}
	return NULL;
}

const char *cfg_elsewhere_find(const char *group, const char *key)
{
	for (const struct cfg_elsewhere_row *row = cfg_elsewhere_rows; row->key; row++)
		if (!strcmp(row->group, group) && !strcmp(row->key, key))
			return row->field;
	return *group ? NULL : find_in_files(key);
}
