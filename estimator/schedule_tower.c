/* Units of what only images run: the blocks of a vision tower where their class is wrapped, and the layers of the language model that
 * look at images. The rest of the tower is the model's own. */
#include "estimator/schedule.h"

unsigned est_schedule_unit_of_tower(const struct est_schedule *schedule, unsigned block)
{
	bool is_unit = block > schedule->blocks ? !schedule->layers_are_roots : block > 0 && schedule->wraps_blocks;

	return is_unit ? schedule->asleep + block - 1 : est_unit_of_root(schedule);
}

void est_schedule_name_blocks(struct est_schedule *schedule, const struct est_model *model)
{
	const struct est_parallelism *p = &schedule->request->parallelism;
	bool by_class = p->wrap == EST_WRAP_ACCELERATE || (p->wrap == EST_WRAP_PEFT && p->strategy == EST_FSDP1);

	if (model->vision.tower == EST_TOWER_NONE)
		return;
	schedule->wraps_blocks = by_class && est_vision_wraps_blocks(model);
	schedule->blocks = est_vision_blocks(model);
	schedule->asleep = schedule->unit_count;
	schedule->unit_count += schedule->blocks + est_vision_cross_layers(model);
}
