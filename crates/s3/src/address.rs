//! Addresses of buckets and what is in them: `s3://bucket/rest` (pure).

use crate::S3Error;

const SCHEMES: [&str; 2] = ["s3://", "s3a://"];
/// The client searches the text of answers for these words, and answers repeat names.
const CLIENT_WORDS: [&str; 2] = ["SlowDown", "InternalError"];

/// Whether a text is meant as an address in S3.
pub fn is_s3(url: &str) -> bool {
    SCHEMES.iter().any(|scheme| url.starts_with(scheme))
}

/// The bucket, and what follows it without the slash between.
///
/// **Errors**: a bucket that cannot be one, credentials in the address, words that the client misreads.
pub fn split(url: &str) -> Result<(&str, &str), S3Error> {
    let Some(rest) = SCHEMES.iter().find_map(|scheme| url.strip_prefix(scheme)) else {
        return Err(S3Error::new(url, "an address in S3 is s3://bucket/prefix"));
    };
    let (bucket, rest) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.contains('@') {
        // The text may hold a secret: it is not repeated.
        return Err(S3Error::new("s3://...@...", "credentials do not belong in an address: use the environment"));
    }
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(is_name) {
        return Err(S3Error::new(
            url,
            "a bucket has 3 to 63 lower-case letters, digits, '-' or '.': s3://bucket/prefix",
        ));
    }
    if CLIENT_WORDS.iter().any(|word| rest.contains(word)) {
        return Err(S3Error::new(url, "a prefix must not have the words SlowDown or InternalError in it"));
    }
    Ok((bucket, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split_and_bad_ones_say_why() {
        assert_eq!(split("s3://bucket"), Ok(("bucket", "")));
        assert_eq!(split("s3a://bucket/a/b.csv"), Ok(("bucket", "a/b.csv")));
        for bad in ["/a", "s3://", "s3://UP/x", "s3://b", "s3://bucket/x/SlowDown"] {
            assert!(split(bad).is_err(), "{bad}");
        }
        let secret = split("s3://key:hunter2@bucket/x").expect_err("it has a secret").to_string();
        assert!(!secret.contains("hunter2"), "{secret}");
    }
}
