/* Return the first character of a file of sysfs. */
static char held(const char *path)
{
	int file = check(path, open(path, O_RDONLY));
	char value = 0;

	check(path, read(file, &value, 1));
	close(file);
	return value;
}
