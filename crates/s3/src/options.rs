//! What may be set about an S3 store, by configuration keys and by the environment. Credentials come from the environment
//! alone and are never printed.

use std::collections::BTreeMap;
use std::fmt;

use crate::S3Error;

/// Key of [`S3Options::endpoint`].
pub const S3_ENDPOINT: &str = "s3.endpoint";
/// Key of [`S3Options::region`].
pub const S3_REGION: &str = "s3.region";
/// Key of [`S3Options::path_style`].
pub const S3_PATH_STYLE: &str = "s3.path-style-access";
/// Key of [`S3Options::allow_http`].
pub const S3_ALLOW_HTTP: &str = "s3.allow-http";

/// How to reach an S3 store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct S3Options {
    /// Address of a server that is not Amazon's: `http://127.0.0.1:9000`.
    pub endpoint: Option<String>,
    /// Region; `AWS_REGION` or `us-east-1` when not given.
    pub region: Option<String>,
    /// `http://endpoint/bucket/...` rather than `http://bucket.endpoint/...`: what most servers but Amazon's need.
    pub path_style: bool,
    /// Whether an endpoint that is not on this machine may be spoken to without TLS.
    pub allow_http: bool,
}

impl S3Options {
    /// Reads `s3.endpoint`, `s3.region`, `s3.path-style-access` and `s3.allow-http`; other keys that begin with `s3.` are
    /// errors, all others are left alone.
    pub fn from_config(keys: &BTreeMap<String, String>) -> Result<S3Options, S3Error> {
        let mut options = S3Options::default();
        for (key, value) in keys.iter().filter(|(key, _)| key.starts_with("s3.")) {
            let truth = || match value.as_str() {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(S3Error::new(value, format!("{key} is true or false"))),
            };
            match key.as_str() {
                S3_ENDPOINT => options.endpoint = Some(value.clone()).filter(|value| !value.is_empty()),
                S3_REGION => options.region = Some(value.clone()).filter(|value| !value.is_empty()),
                S3_PATH_STYLE => options.path_style = truth()?,
                S3_ALLOW_HTTP => options.allow_http = truth()?,
                _ => {
                    let known = "s3.endpoint, s3.region, s3.path-style-access and s3.allow-http";
                    return Err(S3Error::new(key, format!("no such key; there are {known}")));
                }
            }
        }
        Ok(options)
    }
}

/// The variables of the environment that say who we are. Prints their names, never their values.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Environment(BTreeMap<String, String>);

/// Variables that are looked at; an endpoint or a proxy switch is not taken from the environment unseen.
const VARIABLES: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

impl Environment {
    /// What this process was started with.
    pub fn of_process() -> Self {
        Self::of(VARIABLES.iter().filter_map(|name| Some((name.to_string(), std::env::var(name).ok()?))))
    }

    /// What is given, as far as it is known and not empty.
    pub fn of(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let is_known = |name: &str, value: &str| VARIABLES.contains(&name) && !value.is_empty();
        Environment(variables.into_iter().filter(|(name, value)| is_known(name, value)).collect())
    }

    /// One variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn keys_are_read_and_unknown_ones_named() {
        let all =
            keys(&[("s3.endpoint", "http://h:1"), ("s3.path-style-access", "true"), ("parallelism.default", "2")]);
        let options = S3Options::from_config(&all).expect("they are good");
        assert_eq!(
            options,
            S3Options { endpoint: Some("http://h:1".into()), path_style: true, ..S3Options::default() }
        );
        for bad in [("s3.endpont", "x"), ("s3.allow-http", "yes")] {
            let error = S3Options::from_config(&keys(&[bad])).expect_err("it is bad").to_string();
            assert!(error.contains(bad.0), "{error}");
        }
    }

    #[test]
    fn secrets_are_never_printed() {
        let environment = Environment::of([("AWS_SECRET_ACCESS_KEY".to_owned(), "hunter2".to_owned())]);
        let shown = format!("{environment:?}");
        assert!(shown.contains("AWS_SECRET_ACCESS_KEY") && !shown.contains("hunter2"), "{shown}");
    }
}
