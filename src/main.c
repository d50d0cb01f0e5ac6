/* main.c - assembles the program, nothing else. */
int main(void)
{
	return 0;
}
