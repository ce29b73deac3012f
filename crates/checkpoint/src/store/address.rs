//! Addresses of stores: what `open` takes. Pure text work; it opens nothing.

use std::path::{Path, PathBuf};

use super::store_url_error;
use crate::{Result, layout};

/// A store's kind and place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Address {
    /// An absolute directory.
    Local(PathBuf),
    /// A bucket, and a prefix without slashes at its ends (may be empty).
    S3 {
        /// Name of the bucket.
        bucket: String,
        /// Where in it.
        prefix: String,
    },
}

pub(crate) fn parse(url: &str) -> Result<Address> {
    let bad = |reason: &str| Err(store_url_error(url, reason));
    if weir_s3::address::is_s3(url) {
        return parse_s3(url);
    }
    let path = match url.strip_prefix("file:") {
        Some(rest) => {
            let path = rest.strip_prefix("//localhost").or_else(|| rest.strip_prefix("//")).unwrap_or(rest);
            if !path.starts_with('/') {
                return bad("a file URL has three slashes: file:///directory");
            }
            match percent_decode(path) {
                Some(path) => path,
                None => return bad("a '%' is not followed by two hexadecimal digits, or the bytes are not UTF-8"),
            }
        }
        None if url.contains("://") => return bad("use file:///directory, a plain directory or s3://bucket/prefix"),
        None if url.trim().is_empty() => return bad("it is empty"),
        None => url.to_owned(),
    };
    match std::path::absolute(&path) {
        Ok(path) if path.to_str().is_some() => Ok(Address::Local(path)),
        _ => bad("it is not a path in UTF-8"),
    }
}

fn parse_s3(url: &str) -> Result<Address> {
    let bad = |reason: &str| Err(store_url_error(url, reason));
    let (bucket, prefix) = weir_s3::address::split(url)?;
    let prefix = prefix.trim_matches('/');
    if prefix.len() > 256 || !prefix.is_empty() && layout::check_path(prefix).is_err() {
        return bad("a prefix has at most 256 letters, digits, '-', '_', '.' and single '/'");
    }
    Ok(Address::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

/// The URL of a local directory, which [`parse`] reads back.
pub(crate) fn file_url(root: &Path) -> String {
    format!("file://{}", root.display().to_string().replace('%', "%25"))
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let local = |path: &str| Address::Local(PathBuf::from(path));
        let s3 = |bucket: &str, prefix: &str| Address::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() };
        let cases = [
            ("/data/chk", local("/data/chk")),
            ("file:///data/chk", local("/data/chk")),
            ("file:/data", local("/data")),
            ("file://localhost/data", local("/data")),
            ("file:///a%20b%25", local("/a b%")),
            ("s3://bucket", s3("bucket", "")),
            ("s3a://bucket/a/b/", s3("bucket", "a/b")),
        ];
        for (url, expected) in cases {
            assert_eq!(parse(url).expect("it is good"), expected, "{url}");
        }
        assert_eq!(parse(&file_url(Path::new("/a b%20"))).expect("it is good"), local("/a b%20"));
        assert!(matches!(parse("relative/dir").expect("it is good"), Address::Local(path) if path.is_absolute()));
    }

    #[test]
    fn bad_addresses_say_what_to_write() {
        for url in ["", " ", "file://host/x", "file:x", "file:///a%2", "gs://b/x", "s3://", "s3://UP/x", "s3://b"] {
            assert_eq!(parse(url).expect_err("it is bad").code(), "checkpoint-store-url", "{url:?}");
        }
        for prefix in ["a//b", "a/../b", "a b", "SlowDown/x", "x/InternalError"] {
            assert!(parse(&format!("s3://bucket/{prefix}")).is_err(), "{prefix}");
        }
        let secret = parse("s3://key:hunter2@bucket/x").expect_err("it has a secret").to_string();
        assert!(!secret.contains("hunter2"), "{secret}");
    }
}
