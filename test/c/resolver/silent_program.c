/* SPDX-License-Identifier: Apache-2.0 */
/* silent_program.c: never touches CUDA; prints what a preloaded library might have left in the
 * process. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>

static int entries(const char *path) {
  int count = 0;
  DIR *folder = opendir(path);
  if (folder == NULL) return -1;
  while (readdir(folder) != NULL)
    count++;
  closedir(folder);
  return count;
}

int main(void) {
  char line[512];
  int driver = 0;
  FILE *maps = fopen("/proc/self/maps", "r");
  while (maps != NULL && fgets(line, sizeof line, maps) != NULL)
    driver |= strstr(line, "libcuda") != NULL || strstr(line, "libnvidia") != NULL;
  if (maps != NULL) fclose(maps);
  printf("descriptors %d threads %d driver %d\n", entries("/proc/self/fd"),
         entries("/proc/self/task"), driver);
  return 0;
}
