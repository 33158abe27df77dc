/* SPDX-License-Identifier: Apache-2.0 */
/* One program's folder on a host where only the runner lives: token, lease, status, and who holds it.
 *
 * Files are replaced whole. Who lives is told by a lock that its process holds, never by a number in a file. */
#define _GNU_SOURCE
#include "bpfrun.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define WAIT_MS 120000
#define END_MS 20000

uint64_t boot_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now); /* leases go on in suspend, and no clock is set back */
	return (uint64_t)now.tv_sec * 1000000000ull + now.tv_nsec;
}

double wall_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void pause_ms(long ms)
{
	nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

void folder_path(const char *folder, const char *name, char out[FOLDER_PATH])
{
	snprintf(out, FOLDER_PATH, "%s/%s", folder, name);
}

int folder_make(const char *folder)
{
	char path[FOLDER_PATH];

	snprintf(path, sizeof(path), "%s", folder);
	for (char *at = path + 1; *at; at++) {
		if (*at != '/')
			continue;
		*at = 0;
		mkdir(path, 0700);
		*at = '/';
	}
	if (mkdir(path, 0700) && errno != EEXIST)
		return fail(EXIT_UNEXPECTED, "state", errno, NULL, "%s: %s", path, strerror(errno));
	return 0;
}

/* Takes the lock of everything that changes the folder; returns its descriptor, or -1 after saying why. */
int folder_lock(const char *folder)
{
	char path[FOLDER_PATH];
	int fd;

	folder_path(folder, "lock", path);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	for (int waited = 0; fd >= 0 && flock(fd, LOCK_EX | LOCK_NB); waited += 50) {
		if (errno != EWOULDBLOCK || waited > WAIT_MS) {
			close(fd);
			fd = -1;
			break;
		}
		pause_ms(50);
	}
	if (fd < 0)
		fail(EXIT_UNEXPECTED, "lock", errno ? errno : EAGAIN, NULL, "%s: another call holds the lock", path);
	return fd;
}

/* Whether some call holds the lock now. */
bool folder_busy(const char *folder)
{
	char path[FOLDER_PATH];
	bool busy;
	int fd;

	folder_path(folder, "lock", path);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return false;
	busy = flock(fd, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK;
	close(fd);
	return busy;
}

/* Replaces a file with text, durably; 0 or -errno. */
int folder_write(const char *folder, const char *name, const char *text)
{
	char path[FOLDER_PATH], draft[FOLDER_PATH + 8];
	size_t size = strlen(text);
	int fd, error = 0;

	folder_path(folder, name, path);
	snprintf(draft, sizeof(draft), "%s.new", path);
	fd = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (write(fd, text, size) != (ssize_t)size || fsync(fd))
		error = errno ? -errno : -ENOSPC;
	close(fd);
	if (!error && rename(draft, path))
		error = -errno;
	if (error)
		unlink(draft);
	return error;
}

/* Reads a small file; the text is empty when there is none. */
void folder_read(const char *folder, const char *name, char *out, size_t size)
{
	char path[FOLDER_PATH];
	ssize_t got = -1;
	int fd;

	folder_path(folder, name, path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		got = read(fd, out, size - 1);
		close(fd);
	}
	out[got > 0 ? got : 0] = 0;
}

uint64_t folder_number(const char *folder, const char *name)
{
	char text[64];

	folder_read(folder, name, text, sizeof(text));
	return strtoull(text, NULL, 10);
}

int folder_set_number(const char *folder, const char *name, uint64_t value)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu\n", (unsigned long long)value);
	return folder_write(folder, name, text);
}

/* What each order has for itself, so that one that fails changes nothing of the one that stands. */
static const char *const folder_of_order[] = {"alive", "lease", "status"};

void folder_name(const char *what, uint64_t token, char out[FOLDER_NAME])
{
	snprintf(out, FOLDER_NAME, "%s.%llu", what, (unsigned long long)token);
}

static void alive_path(const char *folder, uint64_t token, char out[FOLDER_PATH])
{
	char name[FOLDER_NAME];

	folder_name("alive", token, name);
	folder_path(folder, name, out);
}

/* Becomes the living holder of an order; the lock goes with the process, however it ends. */
int folder_live(const char *folder, uint64_t token)
{
	char path[FOLDER_PATH], text[32];
	int fd;

	alive_path(folder, token, path);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB))
		return fail(EXIT_UNEXPECTED, "state", errno, NULL, "%s: %s", path, strerror(errno));
	snprintf(text, sizeof(text), "%d\n", getpid());
	if (ftruncate(fd, 0) || write(fd, text, strlen(text)) < 0)
		return fail(EXIT_UNEXPECTED, "state", errno, NULL, "%s: %s", path, strerror(errno));
	return 0;
}

/* The process that holds an order now, or 0. */
pid_t folder_holder(const char *folder, uint64_t token)
{
	char path[FOLDER_PATH], text[32] = "";
	pid_t holder = 0;
	int fd;

	alive_path(folder, token, path);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return 0;
	if (flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK && read(fd, text, sizeof(text) - 1) > 0)
		holder = (pid_t)strtol(text, NULL, 10);
	close(fd);
	return holder;
}

static int end(const char *folder, uint64_t token)
{
	char path[FOLDER_PATH], name[FOLDER_NAME];
	pid_t holder;

	for (int waited = 0; (holder = folder_holder(folder, token)) > 1; waited += 20) {
		if (waited > END_MS)
			return -ETIMEDOUT;
		kill(holder, waited > END_MS / 2 ? SIGKILL : SIGTERM);
		pause_ms(20);
	}
	for (size_t i = 0; i < sizeof(folder_of_order) / sizeof(folder_of_order[0]); i++) {
		folder_name(folder_of_order[i], token, name);
		folder_path(folder, name, path);
		unlink(path);
	}
	return 0;
}

/* Ends every holder but one order's, waits until they are gone and removes what is theirs; 0 or -ETIMEDOUT. */
int folder_end_all(const char *folder, uint64_t but)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;
	int error = 0;

	while (dir && (entry = readdir(dir))) {
		unsigned long long token;

		if (sscanf(entry->d_name, "alive.%llu", &token) == 1 && token != but && !error)
			error = end(folder, token);
	}
	if (dir)
		closedir(dir);
	return error;
}
