//! A clock that moves only when a test says so; sleepers wake when time has passed them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use weir_core::Clock;

/// Wall time at which every fake clock starts: 2024-01-01T00:00:00Z in microseconds since 1970.
pub const FAKE_START_UNIX_US: i64 = 1_704_067_200_000_000;

#[derive(Debug, Default)]
struct State {
    elapsed: Duration,
    wall_shift_us: i64,
    sleepers: Vec<(Duration, Waker)>,
}

/// A clock whose time moves only by [`FakeClock::advance`].
#[derive(Clone, Debug, Default)]
pub struct FakeClock {
    state: Arc<Mutex<State>>,
}

impl FakeClock {
    /// Lets time pass and wakes everyone whose sleep is over.
    pub fn advance(&self, duration: Duration) {
        let mut state = self.state();
        state.elapsed += duration;
        let now = state.elapsed;
        let sleepers = std::mem::take(&mut state.sleepers);
        let (due, waiting): (Vec<_>, Vec<_>) = sleepers.into_iter().partition(|(deadline, _)| *deadline <= now);
        state.sleepers = waiting;
        drop(state);
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Sets the wall clock alone, as a person or NTP would; the monotonic clock does not notice.
    pub fn set_wall_unix_us(&self, wall_unix_us: i64) {
        let mut state = self.state();
        state.wall_shift_us = wall_unix_us - FAKE_START_UNIX_US - state.elapsed.as_micros() as i64;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }
}

impl Clock for FakeClock {
    fn wall_unix_us(&self) -> i64 {
        let state = self.state();
        FAKE_START_UNIX_US + state.wall_shift_us + state.elapsed.as_micros() as i64
    }

    fn monotonic(&self) -> Duration {
        self.state().elapsed
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let deadline = self.monotonic() + duration;
        Box::pin(Sleep { clock: self.clone(), deadline })
    }
}

struct Sleep {
    clock: FakeClock,
    deadline: Duration,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.state();
        if state.elapsed >= self.deadline {
            return Poll::Ready(());
        }
        state.sleepers.push((self.deadline, context.waker().clone()));
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct CountWakes(AtomicUsize);

    impl Wake for CountWakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn sleeper_wakes_only_when_its_time_has_come() {
        let clock = FakeClock::default();
        let wakes = Arc::new(CountWakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut context = Context::from_waker(&waker);
        let mut sleep = clock.sleep(Duration::from_secs(5));
        assert!(sleep.as_mut().poll(&mut context).is_pending());
        clock.advance(Duration::from_secs(4));
        assert_eq!(wakes.0.load(Ordering::SeqCst), 0);
        clock.advance(Duration::from_secs(1));
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        assert!(sleep.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn wall_clock_jumps_without_the_monotonic_one() {
        let clock = FakeClock::default();
        clock.advance(Duration::from_secs(1));
        clock.set_wall_unix_us(7);
        assert_eq!((clock.wall_unix_us(), clock.monotonic()), (7, Duration::from_secs(1)));
        clock.advance(Duration::from_micros(3));
        assert_eq!(clock.wall_unix_us(), 10);
    }
}
