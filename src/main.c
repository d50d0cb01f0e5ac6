/* main.c - assembles the program, nothing else. */
#include "control/command.h"

int main(int count, char **arguments)
{
	return command_run(count, arguments);
}
