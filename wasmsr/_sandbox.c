/* Rights that a process gives up for good (Linux; see _sys.h). THE list of system calls that a
 * worker of a node may make is here. */
#define _GNU_SOURCE
#include "_sys.h"

#include <errno.h>
#include <stddef.h>

#ifdef __linux__
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int answer(int result) { return result < 0 ? -errno : result; }

int wsys_give_up_privileges(void) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -errno;
  return answer(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
}

int wsys_adopt_orphans(void) { return answer(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)); }

#if defined(__x86_64__)
#define ARCHITECTURE 0xC000003E
#elif defined(__aarch64__)
#define ARCHITECTURE 0xC00000B7
#endif

#ifdef ARCHITECTURE
/* From the manual, seccomp(2), and BPF's own, because a C library without the kernel's headers has
 * none of it. */
struct instruction {
  uint16_t code;
  uint8_t jump_true, jump_false;
  uint32_t k;
};
struct program {
  unsigned short length;
  const struct instruction *code;
};
struct system_call { /* what a filter sees */
  int32_t number;
  uint32_t architecture;
  uint64_t at, arguments[6];
};
enum { LOAD = 0x20, EQUAL = 0x15, ANY_BIT = 0x45, RETURN = 0x06 }; /* BPF: words at offsets */
#define ALLOW 0x7fff0000u
#define KILL_PROCESS 0x80000000u
#define ERRNO 0x00050000u

/* What a worker does: it computes, reads and writes files and descriptors that it has, has threads,
 * looks at its pages, and answers its supervisor. Not here, so refused: other programs (execve),
 * other processes (fork, ptrace, process_vm_readv, pidfd_open), mounts, keys, bpf, io_uring, and
 * whatever a later kernel brings. */
static const int allowed[] = {
    /* Descriptors that are open. */
    SYS_read,
    SYS_write,
    SYS_pread64,
    SYS_pwrite64,
    SYS_readv,
    SYS_writev,
    SYS_preadv,
    SYS_pwritev,
    SYS_preadv2,
    SYS_pwritev2,
    SYS_lseek,
    SYS_close,
    SYS_dup,
    SYS_dup3,
    SYS_fcntl,
    SYS_flock,
    SYS_fsync,
    SYS_fdatasync,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_fadvise64,
    SYS_sync_file_range,
    SYS_copy_file_range,
    SYS_sendfile,
    SYS_splice,
    SYS_tee,
    SYS_pipe2,
    SYS_ppoll,
    SYS_pselect6,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_eventfd2,
    SYS_fstat,
    SYS_fstatfs,
    SYS_getdents64,
    SYS_fchmod,
    /* Files by name: Landlock says which. */
    SYS_openat,
    SYS_newfstatat,
    SYS_statx,
    SYS_statfs,
    SYS_readlinkat,
    SYS_faccessat,
    SYS_getcwd,
    SYS_chdir,
    SYS_fchdir,
    SYS_mkdirat,
    SYS_unlinkat,
    SYS_renameat,
    SYS_renameat2,
    SYS_linkat,
    SYS_symlinkat,
    SYS_fchmodat,
    SYS_utimensat,
    SYS_truncate,
    SYS_umask,
    /* Memory. */
    SYS_mmap,
    SYS_munmap,
    SYS_mremap,
    SYS_mprotect,
    SYS_madvise,
    SYS_brk,
    SYS_mincore,
    SYS_msync,
    SYS_memfd_create,
    SYS_userfaultfd,
    SYS_membarrier,
    /* Threads, time and signals to itself. */
    SYS_exit,
    SYS_exit_group,
    SYS_futex,
    SYS_set_robust_list,
    SYS_get_robust_list,
    SYS_set_tid_address,
    SYS_sched_yield,
    SYS_sched_getaffinity,
    SYS_getcpu,
    SYS_getrandom,
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_clock_nanosleep,
    SYS_nanosleep,
    SYS_gettimeofday,
    SYS_restart_syscall,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_rt_sigpending,
    SYS_rt_sigtimedwait,
    SYS_sigaltstack,
    /* What it is. */
    SYS_getpid,
    SYS_gettid,
    SYS_getppid,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getgroups,
    SYS_getrusage,
    SYS_sysinfo,
    SYS_uname,
    SYS_times,
    /* The socket of its supervisor, and sockets that it has. */
    SYS_recvmsg,
    SYS_sendmsg,
    SYS_recvfrom,
    SYS_sendto,
    SYS_accept,
    SYS_accept4,
    SYS_getsockname,
    SYS_getpeername,
    SYS_getsockopt,
    SYS_setsockopt,
    SYS_shutdown,
    SYS_socketpair,
#ifdef __x86_64__ /* older calls, which newer architectures lack */
    SYS_open,
    SYS_stat,
    SYS_lstat,
    SYS_readlink,
    SYS_access,
    SYS_mkdir,
    SYS_rmdir,
    SYS_unlink,
    SYS_rename,
    SYS_link,
    SYS_symlink,
    SYS_chmod,
    SYS_dup2,
    SYS_pipe,
    SYS_poll,
    SYS_select,
    SYS_epoll_wait,
    SYS_getdents,
    SYS_time,
    SYS_arch_prctl,
    SYS_pause,
#endif
#ifdef SYS_openat2
    SYS_openat2,
#else
    437,
#endif
#ifdef SYS_faccessat2
    SYS_faccessat2,
#endif
#ifdef SYS_close_range
    SYS_close_range,
#endif
#ifdef SYS_rseq
    SYS_rseq,
#endif
};

/* Calls for a program that listens: its sockets are opened by name. */
static const int listening[] = {SYS_socket, SYS_bind, SYS_listen};

enum { LONGEST = 2 * (sizeof allowed + sizeof listening) / sizeof(int) + 64 };

typedef struct filter {
  struct instruction code[LONGEST];
  unsigned short length;
} filter;

static void add(filter *made, int code, unsigned k, int jump_true, int jump_false) {
  made->code[made->length++] =
      (struct instruction){(uint16_t)code, (uint8_t)jump_true, (uint8_t)jump_false, k};
}

static unsigned refusal(int error) { return ERRNO | (unsigned)error; }

static void allow_all(filter *made, const int *calls, size_t count) {
  for (size_t i = 0; i < count; i++) {
    add(made, EQUAL, (unsigned)calls[i], 0, 1);
    add(made, RETURN, ALLOW, 0, 0);
  }
}

/* Loads the low half of an argument; both architectures are little-endian. */
static void load_argument(filter *made, int number) {
  add(made, LOAD, (unsigned)offsetof(struct system_call, arguments) + 8 * (unsigned)number, 0, 0);
}

/* Allows a call if an argument is `value`. */
static void allow_with(filter *made, int call, int argument, unsigned value) {
  add(made, EQUAL, (unsigned)call, 0, 4);
  load_argument(made, argument);
  add(made, EQUAL, value, 0, 1);
  add(made, RETURN, ALLOW, 0, 0);
  add(made, RETURN, refusal(EPERM), 0, 0);
}

/* Calls that are allowed with some arguments. */
static void allow_some(filter *made) {
  enum { TIOCSTI_CALL = 0x5412, TIOCLINUX_CALL = 0x541C, NAME_MEMORY = 0x53564d41 };
  add(made, EQUAL, SYS_clone, 0, 4); /* threads, and no processes */
  load_argument(made, 0);
  add(made, ANY_BIT, CLONE_THREAD, 0, 1);
  add(made, RETURN, ALLOW, 0, 0);
  add(made, RETURN, refusal(EPERM), 0, 0);
  const unsigned own = (unsigned)getpid();
  allow_with(made, SYS_tgkill, 0, own); /* signals to itself */
  allow_with(made, SYS_kill, 0, own);
  allow_with(made, SYS_prlimit64, 2, 0); /* reads limits, sets none */
  add(made, EQUAL, SYS_ioctl, 0, 5);     /* nothing typed into a terminal */
  load_argument(made, 1);
  add(made, EQUAL, TIOCSTI_CALL, 2, 0);
  add(made, EQUAL, TIOCLINUX_CALL, 1, 0);
  add(made, RETURN, ALLOW, 0, 0);
  add(made, RETURN, refusal(EPERM), 0, 0);
  add(made, EQUAL, SYS_prctl, 0, 5); /* names of threads and of memory */
  load_argument(made, 0);
  add(made, EQUAL, PR_SET_NAME, 1, 0);
  add(made, EQUAL, NAME_MEMORY, 0, 1);
  add(made, RETURN, ALLOW, 0, 0);
  add(made, RETURN, refusal(EPERM), 0, 0);
}

int wsys_forbid_calls(int listens) {
  filter made = {.length = 0};
  add(&made, LOAD, (unsigned)offsetof(struct system_call, architecture), 0, 0);
  add(&made, EQUAL, ARCHITECTURE, 1, 0);
  add(&made, RETURN, KILL_PROCESS, 0, 0);
  add(&made, LOAD, (unsigned)offsetof(struct system_call, number), 0, 0);
  allow_all(&made, allowed, sizeof allowed / sizeof *allowed);
  if (listens) allow_all(&made, listening, sizeof listening / sizeof *listening);
  allow_some(&made);
  /* C libraries try a newer call first, and an older one after ENOSYS. */
  add(&made, RETURN, refusal(ENOSYS), 0, 0);
  const struct program program = {made.length, made.code};
  enum { FILTER = 2 };
  return answer(prctl(PR_SET_SECCOMP, FILTER, &program, 0, 0));
}
#else
int wsys_forbid_calls(int listens) {
  (void)listens;
  return -ENOSYS; /* no filter is written for this architecture */
}
#endif

/* From the manual, landlock(7), because not every host that builds this has its header. */
enum { CREATE_RULESET = 444, ADD_RULE = 445, RESTRICT_SELF = 446, VERSION = 1, BENEATH = 1 };
enum {
  EXECUTE = 1 << 0,
  WRITE_FILE = 1 << 1,
  READ_FILE = 1 << 2,
  READ_DIR = 1 << 3,
  OLDEST = (1 << 13) - 1, /* the rights of version 1 */
  REFER = 1 << 13,
  TRUNCATE = 1 << 14,
  IOCTL_DEV = 1 << 15,
  OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV,
};
enum { BIND = 1, CONNECT = 2, ABSTRACT_SOCKETS = 1, SIGNALS = 2 };

struct ruleset {
  uint64_t files, net, scoped;
};
struct __attribute__((packed)) beneath {
  uint64_t rights;
  int32_t folder;
};

int wsys_landlock_version(void) {
  return answer((int)syscall(CREATE_RULESET, NULL, (size_t)0, VERSION));
}

static int allow_beneath(int rules, int fd, uint64_t rights) {
  struct stat status;
  if (fstat(fd, &status) != 0) return -errno;
  if (!S_ISDIR(status.st_mode)) rights &= OF_FILES;
  const struct beneath rule = {rights, fd};
  return answer((int)syscall(ADD_RULE, rules, BENEATH, &rule, 0));
}

int wsys_landlock(const int *readable, unsigned n_readable, const int *writable,
                  unsigned n_writable, int listens) {
  const int version = wsys_landlock_version();
  if (version < 0) return version;
  struct ruleset rights = {OLDEST, 0, 0};
  size_t size = sizeof rights.files;
  if (version >= 2) rights.files |= REFER;
  if (version >= 3) rights.files |= TRUNCATE;
  if (version >= 5) rights.files |= IOCTL_DEV;
  if (version >= 4) {
    rights.net = listens ? CONNECT : BIND | CONNECT;
    size += sizeof rights.net;
  }
  if (version >= 6) {
    rights.scoped = ABSTRACT_SOCKETS | SIGNALS;
    size += sizeof rights.scoped;
  }
  const int rules = (int)syscall(CREATE_RULESET, &rights, size, 0);
  if (rules < 0) return -errno;
  const uint64_t write = rights.files & ~(uint64_t)(EXECUTE | IOCTL_DEV);
  int result = 0;
  for (unsigned i = 0; i < n_readable && result >= 0; i++)
    result = allow_beneath(rules, readable[i], READ_FILE | READ_DIR);
  for (unsigned i = 0; i < n_writable && result >= 0; i++)
    result = allow_beneath(rules, writable[i], write);
  if (result >= 0) result = answer((int)syscall(RESTRICT_SELF, rules, 0));
  close(rules);
  return result < 0 ? result : version;
}

#else
int wsys_give_up_privileges(void) { return -ENOSYS; }

int wsys_adopt_orphans(void) { return -ENOSYS; }

int wsys_forbid_calls(int listens) {
  (void)listens;
  return -ENOSYS;
}

int wsys_landlock_version(void) { return -ENOSYS; }

int wsys_landlock(const int *readable, unsigned n_readable, const int *writable,
                  unsigned n_writable, int listens) {
  (void)readable, (void)n_readable, (void)writable, (void)n_writable, (void)listens;
  return -ENOSYS;
}
#endif
