// A wall clock that is off by as many nanoseconds as the file $SKEW_FILE says,
// at any time, to be loaded ahead of the C library. libfaketime asks for memory
// before jemalloc has any to give.

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *skew; // NULL until the file is mapped

__attribute__((constructor)) static void map_skew(void) {
	int file = open(getenv("SKEW_FILE"), O_RDONLY);
	void *mapped = mmap(NULL, sizeof *skew, PROT_READ, MAP_SHARED, file, 0);
	if (mapped == MAP_FAILED)
		_exit(1);
	close(file);
	skew = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
	int status = syscall(SYS_clock_gettime, clock, now);
	if (status == 0 && clock == CLOCK_REALTIME && skew) {
		int64_t off = *skew, nanos = now->tv_nsec + off % 1000000000;
		now->tv_sec += off / 1000000000 + (nanos >= 1000000000) - (nanos < 0);
		now->tv_nsec = nanos + (nanos < 0) * 1000000000 - (nanos >= 1000000000) * 1000000000;
	}
	return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
	struct timespec precise;
	int status = clock_gettime(CLOCK_REALTIME, &precise);
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return status;
}

time_t time(time_t *seconds) {
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (seconds)
		*seconds = now.tv_sec;
	return now.tv_sec;
}
