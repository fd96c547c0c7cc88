#include "config/encoders.h"
#include <string.h>
#include "config/families.h"

static const char irregular_window[] = "a sliding window in an irregular pattern of layers, not modelled yet";
static const char other_modernbert[] = "dropout, biases or sparse prediction of a ModernBERT, not modelled yet";
static const char other_deberta[] = "a DeBERTa with other attention or embeddings than the third version's, not modelled yet";

static const char narrow_embeddings[] = "an ELECTRA with embeddings of another width than its layers' (embedding_size), not modelled yet";

/* local_attention counts both sides of a token. */
static void settle_modernbert(const struct cfg_hf_reading *reading)
{
	static const char *const absent[] = { "attention_dropout", "mlp_dropout" };
	const json_t *layer_types = json_object_get(reading->object, "layer_types"), *type;
	struct est_model *model = reading->model;
	size_t layer;

	model->sliding_window /= 2;
	for (size_t i = 0; i < sizeof(absent) / sizeof(absent[0]); i++)
		if (json_number_value(json_object_get(reading->object, absent[i])) != 0)
			cfg_hf_refuse(model, other_modernbert);
	if (cfg_hf_is_true(reading, "norm_bias") || cfg_hf_is_true(reading, "classifier_bias")
	    || cfg_hf_is_true(reading, "sparse_prediction"))
		cfg_hf_refuse(model, other_modernbert);
	json_array_foreach(layer_types, layer, type)
		if (cfg_hf_is_sliding(layer_types, layer) != est_model_layer_is_sliding(model, (int64_t)layer))
			cfg_hf_refuse(model, irregular_window);
}

static bool says(const struct cfg_hf_reading *reading, const char *key, const char *word)
{
	const char *value = json_string_value(json_object_get(reading->object, key));

	return value && !strcmp(value, word);
}

/* Both kinds of scores, in either spelling: "p2c|c2p" or a list. */
static bool scores_both_ways(const struct cfg_hf_reading *reading)
{
	return says(reading, "pos_att_type", "p2c|c2p") || says(reading, "pos_att_type", "c2p|p2c")
	       || json_array_size(json_object_get(reading->object, "pos_att_type")) == 2;
}

/* What the files of the third version say; of the class's own defaults no checkpoint is. */
static void settle_deberta(const struct cfg_hf_reading *reading)
{
	struct est_model *model = reading->model;
	bool third = cfg_hf_is_true(reading, "relative_attention") && cfg_hf_is_true(reading, "share_att_key")
		&& model->position_buckets > 0
		     && says(reading, "norm_rel_ebd", "layer_norm") && scores_both_ways(reading)
		     && json_is_false(json_object_get(reading->object, "position_biased_input"));

	if (!third || json_integer_value(json_object_get(reading->object, "conv_kernel_size")) > 0
	    || json_integer_value(json_object_get(reading->object, "type_vocab_size")) > 0
	    || json_number_value(json_object_get(reading->object, "pooler_dropout")) > 0)
		cfg_hf_refuse(model, other_deberta);
}

/* ERNIE's types of tasks, where the file asks for them; ELECTRA's embeddings, which its smaller models have of another
 * width. */
static void settle_bert(const struct cfg_hf_reading *reading, uint64_t reads)
{
	struct est_model *model = reading->model;

	if ((reads & CFG_READS_ERNIE) && !cfg_hf_is_true(reading, "use_task_id"))
		model->task_type_vocab_size = 0;
	if ((reads & CFG_READS_ELECTRA) && model->embed_dim != model->hidden_size)
		cfg_hf_refuse(model, narrow_embeddings);
	model->embed_dim = 0;
}

/* Dropout by other names, and as many labels as the file names: two when it names none. */
static void settle_dropout(const struct cfg_hf_reading *reading, uint64_t reads)
{
	const char *key = (reads & CFG_READS_BERT)      ? "classifier_dropout"
			  : (reads & CFG_READS_DEBERTA) ? "cls_dropout"
							: "seq_classif_dropout";
	const json_t *classifier = json_object_get(reading->object, key);
	size_t labels = json_object_size(json_object_get(reading->object, "id2label"));
	struct est_model *model = reading->model;

	model->embedding_dropout = model->residual_dropout;
	model->classifier_dropout = (reads & CFG_READS_DISTILBERT) ? 0.2 : model->residual_dropout;
	if (json_is_number(classifier))
		model->classifier_dropout = json_number_value(classifier);
	if (labels > 0)
		model->num_labels = (int64_t)labels;
}

/* T5 writes its activation as "relu" or "gated-gelu", which is gelu_new. A file that says that embeddings are not
 * tied is of a checkpoint with a head of its own, which from_pretrained() keeps apart although the class ties: T5
 * 1.1, whose outputs are not scaled. */
static void settle_t5(const struct cfg_hf_reading *reading)
{
	const char *projection = json_string_value(json_object_get(reading->object, "feed_forward_proj"));
	struct est_model *model = reading->model;

	if (projection) {
		model->gated_mlp = strncmp(projection, "gated-", 6) == 0;
		cfg_hf_set_activation(model, !strcmp(projection, "gated-gelu")
				      ? "gelu_new" : projection + (model->gated_mlp ? 6 : 0));
	}
	if (model->architecture != EST_ARCH_UNSUPPORTED)
		model->architecture = model->gated_mlp ? EST_ARCH_T5_GATED : EST_ARCH_T5;
	if (model->scale_decoder_outputs && !json_object_get(reading->object, "scale_decoder_outputs"))
		model->scale_decoder_outputs = model->tie_word_embeddings;
	if (!model->num_decoder_layers)
		model->num_decoder_layers = model->num_hidden_layers;
	if (est_model_stacked_layers(model) > EST_LAYERS_MAX)
		cfg_hf_complain(reading, "num_decoder_layers", EST_OUT_OF_RANGE,
				"must leave room for the encoder's layers within 1024");
	model->attention_dropout = model->residual_dropout;
}

void cfg_settle_encoder(const struct cfg_hf_reading *reading, uint64_t reads)
{
	if (reads & CFG_READS_MODERNBERT)
		settle_modernbert(reading);
	if (reads & CFG_READS_DEBERTA)
		settle_deberta(reading);
	if (reads & (CFG_READS_BERT | CFG_READS_DISTILBERT | CFG_READS_DEBERTA))
		settle_dropout(reading, reads);
	if (reads & CFG_READS_BERT)
		settle_bert(reading, reads);
	if (reads & CFG_READS_T5)
		settle_t5(reading);
}
