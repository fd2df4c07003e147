//! What a system call fails with, as the guest sees it. Host errors are other types ([`crate::vmm::VmmError`]).

/// A Linux error number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(u16);

/// The outcome of a system call.
pub type SysResult = Result<u64, Errno>;

macro_rules! numbers {
    ($($name:ident = $value:literal,)*) => {
        #[allow(missing_docs)] // The names are Linux's.
        impl Errno {
            $(pub const $name: Errno = Errno($value);)*

            /// The name, such as `ENOENT`.
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($value => stringify!($name),)*
                    Self::BLOCKED_NUMBER => "(blocked)",
                    Self::RESTART_NUMBER => "(restart)",
                    Self::INTERRUPTED_NUMBER => "(interrupted)",
                    Self::ELSEWHERE_NUMBER => "(elsewhere)",
                    _ => "(unknown)",
                }
            }
        }
    };
}

numbers! {
    EPERM = 1,
    ENOENT = 2,
    ESRCH = 3,
    EINTR = 4,
    EIO = 5,
    ENXIO = 6,
    E2BIG = 7,
    ENOEXEC = 8,
    EBADF = 9,
    ECHILD = 10,
    EAGAIN = 11,
    ENOMEM = 12,
    EACCES = 13,
    EFAULT = 14,
    ENOTBLK = 15,
    EBUSY = 16,
    EEXIST = 17,
    EXDEV = 18,
    ENODEV = 19,
    ENOTDIR = 20,
    EISDIR = 21,
    EINVAL = 22,
    ENFILE = 23,
    EMFILE = 24,
    ENOTTY = 25,
    ETXTBSY = 26,
    EFBIG = 27,
    ENOSPC = 28,
    ESPIPE = 29,
    EROFS = 30,
    EMLINK = 31,
    EPIPE = 32,
    EDOM = 33,
    ERANGE = 34,
    EDEADLK = 35,
    ENAMETOOLONG = 36,
    ENOLCK = 37,
    ENOSYS = 38,
    ENOTEMPTY = 39,
    ELOOP = 40,
    ENOMSG = 42,
    EIDRM = 43,
    ECHRNG = 44,
    EL2NSYNC = 45,
    EL3HLT = 46,
    EL3RST = 47,
    ELNRNG = 48,
    EUNATCH = 49,
    ENOCSI = 50,
    EL2HLT = 51,
    EBADE = 52,
    EBADR = 53,
    EXFULL = 54,
    ENOANO = 55,
    EBADRQC = 56,
    EBADSLT = 57,
    EBFONT = 59,
    ENOSTR = 60,
    ENODATA = 61,
    ETIME = 62,
    ENOSR = 63,
    ENONET = 64,
    ENOPKG = 65,
    EREMOTE = 66,
    ENOLINK = 67,
    EADV = 68,
    ESRMNT = 69,
    ECOMM = 70,
    EPROTO = 71,
    EMULTIHOP = 72,
    EDOTDOT = 73,
    EBADMSG = 74,
    EOVERFLOW = 75,
    ENOTUNIQ = 76,
    EBADFD = 77,
    EREMCHG = 78,
    ELIBACC = 79,
    ELIBBAD = 80,
    ELIBSCN = 81,
    ELIBMAX = 82,
    ELIBEXEC = 83,
    EILSEQ = 84,
    ERESTART = 85,
    ESTRPIPE = 86,
    EUSERS = 87,
    ENOTSOCK = 88,
    EDESTADDRREQ = 89,
    EMSGSIZE = 90,
    EPROTOTYPE = 91,
    ENOPROTOOPT = 92,
    EPROTONOSUPPORT = 93,
    ESOCKTNOSUPPORT = 94,
    EOPNOTSUPP = 95,
    EPFNOSUPPORT = 96,
    EAFNOSUPPORT = 97,
    EADDRINUSE = 98,
    EADDRNOTAVAIL = 99,
    ENETDOWN = 100,
    ENETUNREACH = 101,
    ENETRESET = 102,
    ECONNABORTED = 103,
    ECONNRESET = 104,
    ENOBUFS = 105,
    EISCONN = 106,
    ENOTCONN = 107,
    ESHUTDOWN = 108,
    ETOOMANYREFS = 109,
    ETIMEDOUT = 110,
    ECONNREFUSED = 111,
    EHOSTDOWN = 112,
    EHOSTUNREACH = 113,
    EALREADY = 114,
    EINPROGRESS = 115,
    ESTALE = 116,
    EUCLEAN = 117,
    ENOTNAM = 118,
    ENAVAIL = 119,
    EISNAM = 120,
    EREMOTEIO = 121,
    EDQUOT = 122,
    ENOMEDIUM = 123,
    EMEDIUMTYPE = 124,
    ECANCELED = 125,
    ENOKEY = 126,
    EKEYEXPIRED = 127,
    EKEYREVOKED = 128,
    EKEYREJECTED = 129,
    EOWNERDEAD = 130,
    ENOTRECOVERABLE = 131,
    ERFKILL = 132,
}

impl Errno {
    const RESTART_NUMBER: u16 = 512;
    const BLOCKED_NUMBER: u16 = 513;
    const INTERRUPTED_NUMBER: u16 = 514;
    const ELSEWHERE_NUMBER: u16 = 515;

    /// Never seen by the guest: a signal arrived; begin the call again if its handler has `SA_RESTART` or none runs, else `EINTR`.
    pub const RESTART: Errno = Errno(Self::RESTART_NUMBER);
    /// Never seen by the guest: a signal arrived; `EINTR` if a handler runs, else the call goes on.
    pub const INTERRUPTED: Errno = Errno(Self::INTERRUPTED_NUMBER);
    /// Never seen by the guest: the thread waits ([`super::Ctx::block`]); begin the call again when it is woken.
    pub const BLOCKED: Errno = Errno(Self::BLOCKED_NUMBER);
    /// Never seen by the guest: this host thread may not wait for the host; nothing is done, the caller's own worker is to serve the call.
    pub const ELSEWHERE: Errno = Errno(Self::ELSEWHERE_NUMBER);

    /// The value that `rax` gets.
    pub fn to_rax(self) -> u64 {
        (-i64::from(self.0)) as u64
    }

    /// Linux's number.
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }

    /// The error that the host's kernel gave to a call made on the guest's behalf.
    pub fn from_host(number: i32) -> Errno {
        u16::try_from(number).ok().filter(|n| (1..Self::RESTART_NUMBER).contains(n)).map_or(Errno::EIO, Errno)
    }

    /// The error of the host call that just failed.
    pub fn last() -> Errno {
        std::io::Error::last_os_error().into()
    }
}

impl std::fmt::Debug for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(error: rustix::io::Errno) -> Errno {
        Errno::from_host(error.raw_os_error())
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Errno {
        error.raw_os_error().map_or(Errno::EIO, Errno::from_host)
    }
}
