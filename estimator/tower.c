/* The parameters of a vision tower, as its constructor and PEFT make them: weights that a batch without images does
 * not use. */
#include "estimator/build.h"

unsigned est_tower_unit(const struct est_model *model, const struct est_vision_part *part)
{
	return (unsigned)model->num_hidden_layers + EST_BUILT_TOWER + part->block;
}

static bool build_part(void *context, const struct est_vision_part *part)
{
	struct est_pass *pass = context;
	struct est_linear linear = { 0 };

	pass->tape->unit = est_tower_unit(pass->model, part);
	switch (part->kind) {
	case EST_PART_LINEAR:
		est_build_linear(pass, &linear, part->in, part->out, part->bias);
		break;
	case EST_PART_CONVOLUTION:
		est_build_matrix(pass, part->out, part->in);
		if (part->bias)
			est_build_vector(pass, part->out);
		break;
	case EST_PART_PARAMETER:
		if (part->in > 1)
			est_build_matrix(pass, part->in, part->out);
		else
			est_build_vector(pass, part->out);
		break;
	case EST_PART_BUFFER:
	case EST_PART_KINDS:
		est_empty_as(pass->tape, part->in * part->out, EST_32BIT, EST_BUFFERS);
	}
	return true;
}

void est_tower_build(struct est_pass *pass)
{
	pass->idle = !est_has_master(pass->request);
	pass->frozen = pass->request->method == EST_FREEZE || pass->request->freeze_vision_tower;
	pass->quantizes = pass->request->method == EST_QLORA;
	pass->tower = pass->tape->modules + 1;
	est_vision_each(pass->model, build_part, pass);
	pass->quantizes = pass->frozen = pass->idle = false;
	pass->tape->unit = 0;
}
