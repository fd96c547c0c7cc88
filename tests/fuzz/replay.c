/* replay FOLDER: plays the inputs that are kept in FOLDER to the target that it is linked with. Prints TAP; a broken
 * rule ends it, with the input's name as the last line. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/fuzz/fuzz.h"

enum { INPUT_MAX = 1 << 16 };

static bool play(const char *folder, const char *name)
{
	static uint8_t data[INPUT_MAX];
	char path[4096];
	FILE *file;
	size_t size;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	file = fopen(path, "rb");
	if (!file)
		return false;
	size = fread(data, 1, sizeof(data), file);
	fclose(file);
	printf("# %s\n", name);
	fflush(stdout);
	LLVMFuzzerTestOneInput(data, size);
	return true;
}

int main(int argc, char **argv)
{
	struct dirent **names;
	int count = argc > 1 ? scandir(argv[1], &names, NULL, alphasort) : -1;
	int played = 0;

	for (int i = 0; i < count; i++) {
		played += names[i]->d_name[0] != '.' && play(argv[1], names[i]->d_name);
		free(names[i]);
	}
	if (count >= 0)
		free(names);
	printf("1..1\n%s 1 - %d inputs that are kept break no rule\n", played ? "ok" : "not ok", played);
	return played ? EXIT_SUCCESS : EXIT_FAILURE;
}
