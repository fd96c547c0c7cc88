/* Run by the build: prints the table of est_field_find(), each row of est_request_fields[] by its slot: 0 is none, else
 * the row behind it. */
#include "estimator/slots.h"

#include <stdio.h>
#include "estimator/fields.h"

int main(void)
{
	unsigned slots[EST_SLOTS] = { 0 };

	for (size_t i = 0; i < est_request_field_count; i++) {
		size_t at = est_slot(est_request_fields[i].name);

		while (slots[at])
			at = (at + 1) % EST_SLOTS;
		slots[at] = (unsigned)i + 1;
	}
	printf("static const uint8_t slots[EST_SLOTS] = {");
	for (size_t i = 0; i < EST_SLOTS; i++)
		printf("%s%u,", i % 16 ? " " : "\n\t", slots[i]);
	printf("\n};\n");
	return 0;
}
