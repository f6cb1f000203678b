//! Preloaded into the gateway (`LD_PRELOAD`), it plays a disk that keeps only what was synced, a slow or failing disk, and a clock
//! that jumps.
//!
//! Before every change of a file below `AMTSBOTE_SHIM_ROOT` it writes into `AMTSBOTE_SHIM_LOG` what is needed to take the change
//! back; after every completed `fsync` or `fdatasync` that everything before it is durable. `sync_file_range` makes nothing durable.
//! After a kill the laboratory takes back a seeded choice of what was not durable.
//!
//! `AMTSBOTE_SHIM_CONTROL` is a file of three 64-bit numbers that the laboratory changes while the program runs: nanoseconds added
//! to the wall clock, microseconds each sync takes longer, and whether syncs fail.
//!
//! Covered are the calls that Rust's standard library makes: `open`, `openat`, `write`, `writev`, `pwrite`, `ftruncate`, `rename`, `unlink`,
//! `unlinkat`, `mkdir`, `fsync`, `fdatasync`, `clock_gettime`. Mapped memory and direct system calls are not.
//!
//! A record of the log, little-endian: length of the rest (u32), kind (u8), number (u64), inode of the file (u64), inode of its folder
//! (u64), three numbers (u64), length and bytes of the path (u32), length and bytes of a second path or of old content (u32).

#![allow(clippy::missing_safety_doc, reason = "each function has the contract of the C function of its name")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use libc::{iovec, mode_t, off64_t, size_t, ssize_t, timespec};

const WRITE: u8 = 1;
const TRUNCATE: u8 = 2;
const SYNCED: u8 = 3;
const CREATED: u8 = 4;
const RENAMED: u8 = 5;
const REMOVED: u8 = 6;
const FOLDER: u8 = 7;

/// What the environment says; absent: the shim does nothing.
struct Settings {
    root: Option<(PathBuf, c_int, PathBuf)>,
    control: Option<&'static [AtomicU64; 3]>,
}

static NUMBER: AtomicU64 = AtomicU64::new(1);
static STASHED: AtomicU64 = AtomicU64::new(1);

fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| Settings { root: root(), control: control() })
}

fn variable(name: &CStr) -> Option<CString> {
    // SAFETY: the name ends with a zero byte; the value is copied before anybody can change the environment.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: a value of the environment ends with a zero byte.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) }.to_owned())
}

fn root() -> Option<(PathBuf, c_int, PathBuf)> {
    let root = variable(c"AMTSBOTE_SHIM_ROOT")?;
    let log = variable(c"AMTSBOTE_SHIM_LOG")?;
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
    // SAFETY: a real open with a valid path.
    let log_file = unsafe { real_open()(log.as_ptr(), flags, 0o600) };
    let log_path = PathBuf::from(std::ffi::OsStr::from_bytes(log.as_bytes()));
    let stash = log_path.with_extension("stash");
    (log_file >= 0).then(|| (PathBuf::from(std::ffi::OsStr::from_bytes(root.as_bytes())), log_file, stash))
}

fn control() -> Option<&'static [AtomicU64; 3]> {
    let path = variable(c"AMTSBOTE_SHIM_CONTROL")?;
    // SAFETY: a real open with a valid path, and a shared mapping of its first 24 bytes that is never taken down.
    unsafe {
        let file = real_open()(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC, 0);
        let mapped = libc::mmap(std::ptr::null_mut(), 24, libc::PROT_READ, libc::MAP_SHARED, file, 0);
        (file >= 0 && mapped != libc::MAP_FAILED).then(|| &*mapped.cast::<[AtomicU64; 3]>())
    }
}

fn controlled(place: usize) -> u64 {
    settings().control.map_or(0, |control| control[place].load(Ordering::Relaxed))
}

/// The function of a name behind this library.
macro_rules! real {
    ($getter:ident, $name:literal, $kind:ty) => {
        fn $getter() -> $kind {
            static FOUND: OnceLock<usize> = OnceLock::new();
            let found = FOUND.get_or_init(|| {
                // SAFETY: looks up a function of the C library by its name.
                unsafe { libc::dlsym(libc::RTLD_NEXT, $name.as_ptr()) as usize }
            });
            // SAFETY: the C library has a function of that name and this signature.
            unsafe { std::mem::transmute::<usize, $kind>(*found) }
        }
    };
}

real!(real_open, c"open64", unsafe extern "C" fn(*const c_char, c_int, mode_t) -> c_int);
real!(real_openat, c"openat64", unsafe extern "C" fn(c_int, *const c_char, c_int, mode_t) -> c_int);
real!(real_write, c"write", unsafe extern "C" fn(c_int, *const c_void, size_t) -> ssize_t);
real!(real_writev, c"writev", unsafe extern "C" fn(c_int, *const iovec, c_int) -> ssize_t);
real!(real_pwrite, c"pwrite64", unsafe extern "C" fn(c_int, *const c_void, size_t, off64_t) -> ssize_t);
real!(real_ftruncate, c"ftruncate64", unsafe extern "C" fn(c_int, off64_t) -> c_int);
real!(real_rename, c"rename", unsafe extern "C" fn(*const c_char, *const c_char) -> c_int);
real!(real_unlink, c"unlink", unsafe extern "C" fn(*const c_char) -> c_int);
real!(real_unlinkat, c"unlinkat", unsafe extern "C" fn(c_int, *const c_char, c_int) -> c_int);
real!(real_mkdir, c"mkdir", unsafe extern "C" fn(*const c_char, mode_t) -> c_int);
real!(real_fsync, c"fsync", unsafe extern "C" fn(c_int) -> c_int);
real!(real_fdatasync, c"fdatasync", unsafe extern "C" fn(c_int) -> c_int);
real!(real_clock, c"clock_gettime", unsafe extern "C" fn(libc::clockid_t, *mut timespec) -> c_int);

fn status(file: c_int) -> Option<libc::stat64> {
    // SAFETY: the structure is plain data that the call fills in.
    unsafe {
        let mut status = std::mem::zeroed();
        (libc::fstat64(file, &raw mut status) == 0).then_some(status)
    }
}

fn status_of(path: &Path) -> Option<libc::stat64> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: as above, with a valid path.
    unsafe {
        let mut status = std::mem::zeroed();
        (libc::lstat64(path.as_ptr(), &raw mut status) == 0).then_some(status)
    }
}

/// Path of an open file below the root.
fn watched(file: c_int) -> Option<PathBuf> {
    let (root, log, _) = settings().root.as_ref()?;
    if file == *log {
        return None;
    }
    let mut path = vec![0_u8; 4096];
    let link = CString::new(format!("/proc/self/fd/{file}")).ok()?;
    // SAFETY: the buffer has the length that is given.
    let length = unsafe { libc::readlink(link.as_ptr(), path.as_mut_ptr().cast(), path.len()) };
    path.truncate(usize::try_from(length).ok()?);
    let path = PathBuf::from(std::ffi::OsString::from(std::ffi::OsStr::from_bytes(&path)));
    path.starts_with(root).then_some(path)
}

/// An absolute path below the root.
unsafe fn watched_path(path: *const c_char) -> Option<PathBuf> {
    let (root, ..) = settings().root.as_ref()?;
    // SAFETY: the caller passes a C string on.
    let path = Path::new(std::ffi::OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()));
    let path = if path.is_absolute() { path.to_owned() } else { std::env::current_dir().ok()?.join(path) };
    path.starts_with(root).then_some(path)
}

fn inode(status: Option<libc::stat64>) -> u64 {
    status.map_or(0, |status| status.st_ino)
}

fn number() -> u64 {
    NUMBER.fetch_add(1, Ordering::SeqCst)
}

/// Writes a record of the log.
fn record(kind: u8, number: u64, file: u64, numbers: [u64; 3], path: &Path, more: &[u8]) {
    let Some((_, log, _)) = settings().root.as_ref() else { return };
    let folder = inode(path.parent().and_then(status_of));
    let path = path.as_os_str().as_bytes();
    let mut bytes = vec![0_u8; 4];
    bytes.push(kind);
    for field in [number, file, folder, numbers[0], numbers[1], numbers[2]] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    for field in [path, more] {
        bytes.extend_from_slice(&u32::try_from(field.len()).unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(field);
    }
    let length = u32::try_from(bytes.len() - 4).unwrap_or(0);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    // SAFETY: the real write of a buffer that lives.
    unsafe {
        real_write()(*log, bytes.as_ptr().cast(), bytes.len());
    }
}

/// Notes what a write at an offset replaces.
fn note_write(file: c_int, offset: Option<u64>, length: u64) {
    let Some(path) = watched(file) else { return };
    let Some(status) = status(file) else { return };
    let size = u64::try_from(status.st_size).unwrap_or(0);
    let offset = offset.unwrap_or_else(|| {
        // SAFETY: only asks.
        let (flags, place) =
            unsafe { (libc::fcntl(file, libc::F_GETFL), libc::lseek64(file, 0, libc::SEEK_CUR)) };
        if flags & libc::O_APPEND == 0 { u64::try_from(place).unwrap_or(size) } else { size }
    });
    let old = read(file, offset, size.min(offset + length).saturating_sub(offset));
    record(WRITE, number(), status.st_ino, [offset, length, size], &path, &old);
}

fn read(file: c_int, offset: u64, length: u64) -> Vec<u8> {
    let mut old = vec![0_u8; usize::try_from(length).unwrap_or(0)];
    if old.is_empty() {
        return old;
    }
    let place = off64_t::try_from(offset).unwrap_or(0);
    let Ok(path) = CString::new(format!("/proc/self/fd/{file}")) else { return Vec::new() };
    // SAFETY: opens the file once more, as it may be open for writing only, and reads into a buffer of the given length.
    unsafe {
        let again = real_open()(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC, 0);
        let got = libc::pread64(again, old.as_mut_ptr().cast(), old.len(), place);
        libc::close(again);
        old.truncate(usize::try_from(got).unwrap_or(0));
    }
    old
}

/// Keeps a file that is about to go under another name; the name.
fn stash(path: &Path) -> Vec<u8> {
    let Some((_, _, stash)) = settings().root.as_ref() else { return Vec::new() };
    let name = stash.with_extension(format!("stash-{}", STASHED.fetch_add(1, Ordering::Relaxed)));
    match std::fs::hard_link(path, &name) {
        Ok(()) => name.as_os_str().as_bytes().to_vec(),
        Err(_) => Vec::new(),
    }
}

fn note_created(path: Option<PathBuf>, existed: bool, file: c_int) {
    if let (Some(path), false, true) = (path, existed, file >= 0) {
        record(CREATED, number(), inode(status(file)), [0; 3], &path, b"");
    }
}

fn note_truncated(file: c_int, old_size: u64, new_size: u64, path: &Path) {
    let cut = if new_size < old_size { read(file, new_size, old_size - new_size) } else { Vec::new() };
    record(TRUNCATE, number(), inode(status(file)), [old_size, new_size, 0], path, &cut);
}

/// Before a file is opened with `O_TRUNC`, its content is cut off by hand, so that it is noted like any other cut.
unsafe fn cut_before(path: Option<&PathBuf>, flags: c_int) {
    let Some(path) = path.filter(|_| flags & libc::O_TRUNC != 0) else { return };
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else { return };
    // SAFETY: opens and closes a file of a valid path.
    unsafe {
        let file = real_open()(name.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC, 0);
        if file >= 0 {
            let size = status(file).map_or(0, |status| u64::try_from(status.st_size).unwrap_or(0));
            if size > 0 {
                note_truncated(file, size, 0, path);
            }
            libc::close(file);
        }
    }
}

unsafe fn opened(path: *const c_char, flags: c_int, open: impl FnOnce() -> c_int) -> c_int {
    if flags & (libc::O_CREAT | libc::O_TRUNC) == 0 || settings().root.is_none() {
        return open();
    }
    // SAFETY: the caller passes a C string on.
    let watched = unsafe { watched_path(path) };
    let existed = watched.as_ref().is_some_and(|path| status_of(path).is_some());
    // SAFETY: as above.
    unsafe { cut_before(watched.as_ref(), flags) };
    let file = open();
    note_created(watched, existed || flags & libc::O_CREAT == 0, file);
    file
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: passes on what it was given.
    unsafe { opened(path, flags, || real_open()(path, flags, mode)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: passes on what it was given.
    unsafe { open64(path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn openat64(folder: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: passes on what it was given.
    unsafe { opened(path, flags, || real_openat()(folder, path, flags, mode)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(file: c_int, bytes: *const c_void, length: size_t) -> ssize_t {
    note_write(file, None, length as u64);
    // SAFETY: passes on what it was given.
    unsafe { real_write()(file, bytes, length) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn writev(file: c_int, pieces: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the caller vouches for the array.
    let pieces_of = unsafe { std::slice::from_raw_parts(pieces, usize::try_from(count).unwrap_or(0)) };
    note_write(file, None, pieces_of.iter().map(|piece| piece.iov_len as u64).sum());
    // SAFETY: passes on what it was given.
    unsafe { real_writev()(file, pieces, count) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(file: c_int, bytes: *const c_void, length: size_t, offset: off64_t) -> ssize_t {
    note_write(file, u64::try_from(offset).ok(), length as u64);
    // SAFETY: passes on what it was given.
    unsafe { real_pwrite()(file, bytes, length, offset) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate64(file: c_int, length: off64_t) -> c_int {
    if let (Some(path), Some(status)) = (watched(file), status(file)) {
        let size = |size: off64_t| u64::try_from(size).unwrap_or(0);
        note_truncated(file, size(status.st_size), size(length), &path);
    }
    // SAFETY: passes on what it was given.
    unsafe { real_ftruncate()(file, length) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the caller passes C strings on.
    if let (Some(from), Some(to)) = unsafe { (watched_path(from), watched_path(to)) } {
        let mut more = to.as_os_str().as_bytes().to_vec();
        more.push(0);
        more.extend(if status_of(&to).is_some() { stash(&to) } else { Vec::new() });
        let target = inode(to.parent().and_then(status_of));
        record(RENAMED, number(), inode(status_of(&from)), [target, 0, 0], &from, &more);
    }
    // SAFETY: passes on what it was given.
    unsafe { real_rename()(from, to) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the caller passes a C string on.
    if let Some(path) = unsafe { watched_path(path) } {
        record(REMOVED, number(), inode(status_of(&path)), [0; 3], &path, &stash(&path));
    }
    // SAFETY: passes on what it was given.
    unsafe { real_unlink()(path) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlinkat(folder: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller passes a C string on.
    let name = Path::new(std::ffi::OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()));
    let whole =
        if name.is_absolute() { Some(name.to_owned()) } else { watched(folder).map(|base| base.join(name)) };
    let root = settings().root.as_ref().map(|(root, ..)| root);
    if let (Some(whole), true) = (whole, flags & libc::AT_REMOVEDIR == 0)
        && root.is_some_and(|root| whole.starts_with(root))
    {
        record(REMOVED, number(), inode(status_of(&whole)), [0; 3], &whole, &stash(&whole));
    }
    // SAFETY: passes on what it was given.
    unsafe { real_unlinkat()(folder, path, flags) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: passes on what it was given.
    let made = unsafe { real_mkdir()(path, mode) };
    // SAFETY: the caller passes a C string on.
    if let (0, Some(path)) = (made, unsafe { watched_path(path) }) {
        record(FOLDER, number(), inode(status_of(&path)), [0; 3], &path, b"");
    }
    made
}

#[allow(clippy::disallowed_methods, reason = "a disk that is slow blocks, too")]
fn block(micros: u64) {
    std::thread::sleep(std::time::Duration::from_micros(micros));
}

/// Everything noted before the number is durable once the sync has succeeded.
fn synced(file: c_int, sync: impl FnOnce() -> c_int) -> c_int {
    let Some(path) = watched(file) else { return sync() };
    let before = number();
    let pause = controlled(1);
    if pause > 0 {
        block(pause);
    }
    if controlled(2) != 0 {
        // SAFETY: sets this thread's own error number.
        unsafe { *libc::__errno_location() = libc::EIO };
        return -1;
    }
    let done = sync();
    if done == 0 {
        record(SYNCED, number(), inode(status(file)), [before, 0, 0], &path, b"");
    }
    done
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fsync(file: c_int) -> c_int {
    // SAFETY: passes on what it was given.
    synced(file, || unsafe { real_fsync()(file) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdatasync(file: c_int) -> c_int {
    // SAFETY: passes on what it was given.
    synced(file, || unsafe { real_fdatasync()(file) })
}

/// Not offered: its writes would pass unseen. The standard library then copies by reading and writing.
#[unsafe(no_mangle)]
unsafe extern "C" fn copy_file_range(
    _: c_int,
    _: *mut off64_t,
    _: c_int,
    _: *mut off64_t,
    _: size_t,
    _: c_uint,
) -> ssize_t {
    // SAFETY: sets this thread's own error number.
    unsafe { *libc::__errno_location() = libc::ENOSYS };
    -1
}

/// Not offered, for the same reason.
#[unsafe(no_mangle)]
unsafe extern "C" fn sendfile64(_: c_int, _: c_int, _: *mut off64_t, _: size_t) -> ssize_t {
    // SAFETY: sets this thread's own error number.
    unsafe { *libc::__errno_location() = libc::ENOSYS };
    -1
}

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut timespec) -> c_int {
    // SAFETY: passes on what it was given.
    let done = unsafe { real_clock()(clock, time) };
    if done == 0 && clock == libc::CLOCK_REALTIME {
        let added = controlled(0).cast_signed();
        // SAFETY: the call has filled it in.
        let time = unsafe { &mut *time };
        let nanos = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec) + i128::from(added);
        time.tv_sec = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(time.tv_sec);
        time.tv_nsec = i64::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0);
    }
    done
}
