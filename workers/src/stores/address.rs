//! From an address to a store.

use std::sync::Arc;
use std::time::Duration;

use manifests::spec::StoreOptions;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ClientOptions, DynObjectStore, HeaderMap, HeaderValue, ObjectStore, RetryConfig};
use url::Url;

use super::Store;
use super::pieces::Pieces;
use super::steady::{Persistence, Steady};
use crate::error::WorkerError;

/// Opens the store of an address: `file://`, `s3://`, `gs://`, `az://`, `http(s)://`, or a path on
/// this machine. `anonymous` is the default where the options leave it open; `authorization` goes to that HTTP server
/// with every request, and not to another that it redirects to.
pub(super) fn open(
    address: &str,
    options: &StoreOptions,
    anonymous: bool,
    authorization: Option<HeaderValue>,
) -> Result<Store, WorkerError> {
    let mut url = parse_address(address)?;
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    let configuration = |e: object_store::Error| WorkerError::Configuration(format!("store {address}: {e}"));
    let (anonymous, is_authorized) = (options.anonymous.unwrap_or(anonymous), authorization.is_some());
    let client = ClientOptions::new()
        .with_timeout(Duration::from_secs(options.timeout_seconds))
        .with_connect_timeout(Duration::from_secs(options.timeout_seconds.min(10)))
        .with_allow_http(options.allow_http);
    // `asked` is where requests go
    let client_of = |asked: Option<&str>| match asked.and_then(|asked| Url::parse(asked).ok()) {
        // nobody on the way, the environment's proxy included: any proxy of our own, for no host, takes its place
        Some(here) if is_loopback(&here) => {
            client.clone().with_proxy_url("http://localhost").with_proxy_excludes("*,0.0.0.0/0,::/0")
        }
        _ => client.clone(),
    };
    // what the environment says has been read into the client's own configuration
    let endpoint_or = |of_environment: Option<String>| {
        Some(options.endpoint.clone()).filter(|endpoint| !endpoint.is_empty()).or(of_environment)
    };
    // tries are counted in one place, below: a client that quietly sends a conditional write again, after an answer was
    // lost, is refused by what it wrote itself
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let host = url.host_str().unwrap_or_default().to_owned();
    let (store, pieces): (Arc<DynObjectStore>, Option<Arc<dyn MultipartStore>>) = match url.scheme() {
        // what counts is on the disk before anything names it: files and the folders that hold them
        "file" => (Arc::new(object_store::local::LocalFileSystem::new().with_fsync(true)), None),
        "s3" | "s3a" => {
            let from_env = AmazonS3Builder::from_env();
            let known = |key| from_env.get_config_value(&key);
            let endpoint = endpoint_or(known(AmazonS3ConfigKey::S3Endpoint).or(known(AmazonS3ConfigKey::Endpoint)));
            let mut builder = from_env
                .with_bucket_name(&host)
                .with_client_options(client_of(endpoint.as_deref()))
                .with_retry(retry)
                .with_allow_http(options.allow_http)
                .with_skip_signature(anonymous)
                .with_virtual_hosted_style_request(!options.path_style && endpoint.is_none());
            if !options.region.is_empty() {
                builder = builder.with_region(&options.region);
            }
            if let Some(endpoint) = endpoint {
                // the key that goes before all others
                builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
            }
            whole_and_in_pieces(builder.build().map_err(configuration)?)
        }
        "gs" => {
            let from_env = GoogleCloudStorageBuilder::from_env();
            let endpoint = endpoint_or(from_env.get_config_value(&GoogleConfigKey::BaseUrl));
            let mut builder = from_env
                .with_bucket_name(&host)
                .with_client_options(client_of(endpoint.as_deref()))
                .with_retry(retry)
                .with_skip_signature(anonymous);
            if let Some(endpoint) = endpoint {
                builder = builder.with_base_url(&endpoint);
            }
            whole_and_in_pieces(builder.build().map_err(configuration)?)
        }
        "az" | "abfs" | "abfss" | "adl" | "azure" => {
            let from_env = MicrosoftAzureBuilder::from_env();
            let endpoint = endpoint_or(from_env.get_config_value(&AzureConfigKey::Endpoint));
            let mut builder = from_env
                .with_container_name(&host)
                .with_client_options(client_of(endpoint.as_deref()))
                .with_retry(retry)
                .with_allow_http(options.allow_http)
                .with_skip_signature(anonymous);
            if let Some(endpoint) = endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            whole_and_in_pieces(builder.build().map_err(configuration)?)
        }
        "http" | "https" => {
            let origin = url.origin().ascii_serialization();
            let client = client_of(Some(url.as_str())).with_allow_http(url.scheme() == "http");
            let mut headers = HeaderMap::new();
            if let Some(value) = authorization {
                headers.insert("authorization", value);
            }
            let http = object_store::http::HttpBuilder::new()
                .with_url(origin)
                .with_client_options(client.with_default_headers(headers))
                .with_retry(retry)
                .build()
                .map_err(configuration)?;
            (Arc::new(http), None)
        }
        other => {
            return Err(WorkerError::Configuration(format!(
                "store {address}: unknown scheme {other:?}; use file, s3, gs, az, http or https"
            )));
        }
    };
    let persistence = Persistence {
        tries: options.retries as u32 + 1,
        first_pause: Duration::from_millis(if url.scheme() == "file" { 10 } else { 200 }),
        longest_pause: Duration::from_secs(if url.scheme() == "file" { 1 } else { 10 }),
    };
    let store: Arc<DynObjectStore> = Arc::new(Steady::new(store, persistence));
    let pieces = pieces.map(|store| Pieces { store, persistence });
    let root =
        Path::from_url_path(url.path()).map_err(|e| WorkerError::Configuration(format!("store {address}: {e}")))?;
    // web servers know their visitors by a header, if at all
    let is_anonymous = if matches!(url.scheme(), "http" | "https") { !is_authorized } else { anonymous };
    Ok(Store { store, pieces, root, url, is_anonymous })
}

/// A client, and the same one for large files.
fn whole_and_in_pieces<S: ObjectStore + MultipartStore>(
    client: S,
) -> (Arc<DynObjectStore>, Option<Arc<dyn MultipartStore>>) {
    let client = Arc::new(client);
    (client.clone(), Some(client))
}

/// An address, or an absolute path as one.
fn parse_address(address: &str) -> Result<Url, WorkerError> {
    let refused = |why: String| WorkerError::Configuration(format!("store {address}: {why}"));
    if !address.contains("://") {
        let folder = manifests::spec::real_path(std::path::Path::new(address)).map_err(|e| refused(e.to_string()))?;
        return Url::from_directory_path(&folder).map_err(|()| refused("no usable path".into()));
    }
    let url = Url::parse(address).map_err(|e| refused(e.to_string()))?;
    if let ("file", Some(host)) = (url.scheme(), url.host_str()) {
        return Err(refused(format!(
            "{host} is in the place of a host name; write file:///{host}… for a folder at the root, or a plain path"
        )));
    }
    // only the web has them; elsewhere the rest of the name would be cut off
    if !matches!(url.scheme(), "http" | "https") && (url.query().is_some() || url.fragment().is_some()) {
        return Err(refused("write ? as %3F and # as %23".into()));
    }
    Ok(url)
}

/// Does an address lead to this machine, so that nobody is on the way?
pub(crate) fn is_loopback(address: &Url) -> bool {
    match address.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.to_canonical().is_loopback(),
        None => false,
    }
}
