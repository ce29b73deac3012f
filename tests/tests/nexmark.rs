//! NEXMark over the first million events gives Flink's result hashes: at every parallelism, and over two workers.

use weir_tests::{Cluster, command, defining, root, succeed};

const QUERIES: [&str; 7] = ["q0", "q1", "q2", "q5", "q7w", "q8", "q11"];
const EVENTS: (&str, &str) = ("events", "1000000");

fn golden(file: &str, query: &str) -> String {
    let path = root().join("testdata/nexmark").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    let line = text.lines().find(|line| line.split(' ').next() == Some(query)).expect("the query has a golden line");
    line.to_owned()
}

fn local(query: &str, rate: &str, parallelism: &str) -> String {
    let run = command(&["local", "run", &format!("examples/nexmark/{query}.yaml"), "-p", parallelism]);
    succeed(defining(run, &[EVENTS, ("rate", rate)])).trim_end().to_owned()
}

#[test]
fn hashes_agree_at_the_fast_rate() {
    for query in QUERIES {
        for parallelism in ["1", "2", "4"] {
            assert_eq!(
                local(query, "100000", parallelism),
                golden("golden-1M.txt", query),
                "parallelism {parallelism}"
            );
        }
    }
}

#[test]
fn hashes_agree_at_the_slow_rate_with_many_windows() {
    for query in QUERIES {
        for parallelism in ["1", "2", "4"] {
            let expected = golden("golden-1M-rate1000.txt", query);
            assert_eq!(local(query, "1000", parallelism), expected, "parallelism {parallelism}");
        }
    }
}

#[test]
fn hashes_agree_over_two_workers() {
    let cluster = Cluster::start(2, 2);
    for query in QUERIES {
        let file = format!("examples/nexmark/{query}.yaml");
        let run = cluster.client(&["run", &file, "-p", "4"]);
        let output = succeed(defining(run, &[EVENTS, ("rate", "1000")]));
        let last = output.trim_end().lines().last().expect("a hash line").to_owned();
        assert_eq!(last, golden("golden-1M-rate1000.txt", query));
    }
}
