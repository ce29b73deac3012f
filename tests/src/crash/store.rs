//! An S3 server for a job's checkpoints, behind a proxy that cuts requests.

use tokio::runtime::Runtime;
use weir_core::Random;
use weir_core::random::SplitMix64;
use weir_testkit::s3_server::BUCKET;
use weir_testkit::{FaultProxy, S3Server};

/// A server with a proxy before it.
pub(super) struct BrokenStore {
    proxy: FaultProxy,
    _server: S3Server,
    /// Moves the bytes of the proxy; ends last.
    _runtime: Runtime,
}

impl BrokenStore {
    /// Starts both.
    pub(super) fn start() -> BrokenStore {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (server, proxy) = runtime.block_on(async {
            let server = S3Server::start().await;
            let proxy = FaultProxy::start(server.address()).await;
            (server, proxy)
        });
        BrokenStore { proxy, _server: server, _runtime: runtime }
    }

    /// The settings that lead a job's checkpoints there.
    pub(super) fn settings(&self) -> Vec<(String, String)> {
        let pairs = [
            ("s3.endpoint", format!("http://{}", self.proxy.address())),
            ("s3.path-style-access", "true".to_owned()),
            ("execution.checkpointing.dir", format!("s3://{BUCKET}/state")),
        ];
        pairs.map(|(key, value)| (key.to_owned(), value)).into()
    }

    /// The next request of a kind meets a fault.
    pub(super) fn cut(&self, dice: &mut SplitMix64) {
        use weir_testkit::fault_proxy::Fault;
        let method = ["PUT", "PUT", "GET", "DELETE"][dice.below(4) as usize];
        let applied = dice.below(2) == 0;
        let fault = match dice.below(7) {
            0 => Fault::Status { code: 503, applied },
            1 => Fault::Status { code: 500, applied },
            2 => Fault::Fin { applied },
            3 => Fault::Reset { applied },
            4 => Fault::HalfHead,
            5 => Fault::Truncate { keep: dice.below(64) as usize, is_length_matching: applied },
            _ => Fault::FlipAnswerBit(dice.below(4096) as usize),
        };
        // An answer to a write has nothing to cut or to flip.
        let fault = match fault {
            Fault::Truncate { .. } | Fault::FlipAnswerBit(_) if method != "GET" => Fault::Reset { applied },
            fault => fault,
        };
        self.proxy.next(method, [fault]);
    }
}
