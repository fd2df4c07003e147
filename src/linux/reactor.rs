//! Events from outside: one host thread per VM that waits for host descriptors and for the next alarm.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, Once, Weak};

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use super::errno::Errno;
use super::file::File;
use super::kernel::Kernel;
use super::sched::Alarm;
use super::thread::{FileId, Tid, Wait};
use super::time::SECOND;
use crate::sync::lock;
use crate::vmm::VmmError;

/// Event data of the timer and of the order to stop; files count from 16.
const TIMER: u64 = 1;
const STOP: u64 = 2;
/// How long a thread keeps its vCPU while others wait for one.
pub const TIME_SLICE: u64 = 10_000_000;

/// What the thread waits on.
pub struct Reactor {
    epoll: OwnedFd,
    timer: OwnedFd,
    stop: OwnedFd,
    /// Files whose host descriptors are watched.
    watched: Mutex<HashMap<FileId, Weak<File>>>,
    /// Held while events are served.
    serving: Mutex<()>,
    /// When the timer is set to expire, in host nanoseconds; `u64::MAX` when it is not.
    armed: Mutex<u64>,
    started: Once,
}

impl Reactor {
    /// A reactor whose thread starts when it is first needed.
    pub fn new() -> Result<Reactor, VmmError> {
        let failed = |e: rustix::io::Errno| VmmError::Kvm { doing: "wait for events", source: e.into() };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags).map_err(failed)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(failed)?;
        for (fd, data) in [(&timer, TIMER), (&stop, STOP)] {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(data), epoll::EventFlags::IN).map_err(failed)?;
        }
        let (watched, serving, armed) = (Mutex::default(), Mutex::default(), Mutex::new(u64::MAX));
        Ok(Reactor { epoll, timer, stop, watched, serving, armed, started: Once::new() })
    }

    /// From now on a change of readiness of the file's host descriptor wakes those who wait for it.
    pub fn watch(&self, file: &Arc<File>, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut watched = lock(&self.watched);
        if watched.insert(file.id, Arc::downgrade(file)).is_some() {
            return Ok(());
        }
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::PRI
            | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(file.id);
        match epoll::add(&self.epoll, fd, data, flags) {
            Err(rustix::io::Errno::EXIST) => epoll::modify(&self.epoll, fd, data, flags)?,
            // Files on disk are always ready.
            Err(rustix::io::Errno::PERM) => {}
            added => added?,
        }
        Ok(())
    }

    /// Forgets a file that was closed.
    pub fn forget(&self, id: FileId) {
        lock(&self.watched).remove(&id);
    }

    /// Waits until the events under way have been served; those that follow wait until the value is dropped.
    pub fn stop_events(&self) -> Stopped<'_> {
        Stopped(lock(&self.serving))
    }

    /// Ends the thread.
    pub fn stop(&self) {
        // The counter cannot overflow from one write.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }

    /// Makes the timer expire at `at`, in host nanoseconds, or earlier.
    fn arm(&self, at: u64) {
        let mut armed = lock(&self.armed);
        if at < *armed {
            *armed = at;
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            // A time of zero would disarm it.
            let at = at.max(1);
            let value = Timespec { tv_sec: (at / SECOND) as i64, tv_nsec: (at % SECOND) as i64 };
            let spec = Itimerspec { it_interval: zero, it_value: value };
            if let Err(error) = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec)
            {
                tracing::error!(%error, "cannot set the timer of a microVM");
            }
        }
    }
}

/// No event is served while this lives.
pub struct Stopped<'a>(#[expect(dead_code, reason = "held until it is dropped")] MutexGuard<'a, ()>);

impl Kernel {
    /// Registers a wait of a running thread: see [`super::sched::Sched::register`]. `ENOMEM` if too much is held for the program
    /// already.
    pub fn register(&self, tid: Tid, wait: &Wait) -> Result<(), Errno> {
        self.budget.take(wait.cost()).map_err(|_| Errno::ENOMEM)?;
        self.sched.register(tid, wait);
        if let Some(deadline) = wait.deadline {
            self.arm(deadline);
        }
        self.start_reactor();
        Ok(())
    }

    /// Takes that back.
    pub fn unregister(&self, tid: Tid, wait: &Wait) {
        self.sched.unregister(tid, wait);
        self.budget.give(wait.cost());
    }

    /// Makes sure that alarms which are due at `at`, in guest time, are served.
    pub fn arm(&self, at: u64) {
        self.reactor.arm(self.clock.to_host(at));
        self.start_reactor();
    }

    /// Starts the reactor's thread if it does not run.
    pub fn start_reactor(&self) {
        self.reactor.started.call_once(|| {
            let Some(kernel) = self.this() else { return };
            let named = std::thread::Builder::new().name("guest-events".into()).stack_size(256 << 10);
            if let Err(source) = named.spawn(move || kernel.react()) {
                self.sched.fail(VmmError::Kvm { doing: "start a host thread for events", source });
            }
        });
    }

    fn react(&self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.reactor.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    return self.sched.fail(VmmError::Kvm { doing: "wait for events", source: error.into() });
                }
            }
            let _serving = self.reactor.stop_events();
            for event in &events {
                match event.data.u64() {
                    STOP => return,
                    TIMER => self.ring(),
                    id => self.file_event(id),
                }
            }
        }
    }

    /// Serves the alarms that are due and sets the timer for the next.
    fn ring(&self) {
        let mut count = [0; 8];
        // Nothing to read only says that the timer was set anew in between.
        let _ = rustix::io::read(&self.reactor.timer, &mut count);
        *lock(&self.reactor.armed) = u64::MAX;
        for alarm in self.sched.expired(self.clock.monotonic()) {
            match alarm {
                Alarm::Thread(tid) => self.wake_locked(self.sched.lock(), vec![tid]),
                Alarm::File(id) => self.wake_file(id),
                Alarm::Timer(id) => self.timer_expired(id),
            }
        }
        if self.sched.end_turns() {
            self.arm(self.clock.monotonic() + TIME_SLICE);
        }
        if let Some(at) = self.sched.next_alarm() {
            self.arm(at);
        }
    }

    fn file_event(&self, id: FileId) {
        let file = lock(&self.reactor.watched).get(&id).and_then(Weak::upgrade);
        if let Some(file) = file {
            self.changed(&file);
        }
    }
}
