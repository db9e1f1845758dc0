//! Images: there, or pulled, or a clear reason why not.

use bollard::models::ImageInspect;
use bollard::query_parameters::CreateImageOptions;
use tokio::time::Instant;

use super::*;

/// Pulls at once.
const PULLS: usize = 3;

/// One pull of an image at a time, the others wait for it.
pub(super) struct Pulls {
    places: Semaphore,
    under_way: tokio::sync::Mutex<HashSet<String>>,
    done: tokio::sync::Notify,
}

impl Default for Pulls {
    fn default() -> Self {
        Self {
            places: Semaphore::new(PULLS),
            under_way: tokio::sync::Mutex::default(),
            done: tokio::sync::Notify::new(),
        }
    }
}

/// An image that was built here and never came from a registry has nothing to be pulled: `Always` takes it as it is.
pub(super) async fn ensure(
    docker: &Docker,
    pulls: &Pulls,
    image: &str,
    policy: PullPolicy,
    begins: &(dyn Fn() + Send + Sync),
) -> Result<Pulled> {
    let present = inspect(docker, image).await?;
    if let Some(found) = &present {
        let local = found.repo_digests.as_ref().is_none_or(Vec::is_empty);
        if policy != PullPolicy::Always || local {
            return Ok(Pulled { image: describe(found), took: None });
        }
    } else if policy == PullPolicy::Never {
        return Err(RuntimeError::ImageNeverPull(image.to_owned()));
    }
    begins();
    let start = Instant::now();
    loop {
        let done = pulls.done.notified();
        if pulls.under_way.lock().await.insert(image.to_owned()) {
            break;
        }
        done.await;
        if let Some(found) = inspect(docker, image).await? {
            return Ok(Pulled { image: describe(&found), took: Some(start.elapsed()) });
        }
    }
    let result = {
        let _place = pulls.places.acquire().await;
        // Cancelled or not, the others may try.
        pull(docker, image).await
    };
    pulls.under_way.lock().await.remove(image);
    pulls.done.notify_waiters();
    result?;
    match inspect(docker, image).await? {
        Some(found) => Ok(Pulled { image: describe(&found), took: Some(start.elapsed()) }),
        None => Err(RuntimeError::ImagePull {
            image: image.to_owned(),
            reason: "it is not there after the pull".into(),
        }),
    }
}

async fn pull(docker: &Docker, image: &str) -> Result<()> {
    let last = image.rsplit('/').next().unwrap_or_default();
    let untagged = !last.contains(':') && !image.contains('@');
    let options = CreateImageOptions {
        from_image: Some(image.to_owned()),
        // Without a tag the daemon would pull them all.
        tag: untagged.then(|| "latest".to_owned()),
        ..CreateImageOptions::default()
    };
    let mut steps = std::pin::pin!(docker.create_image(Some(options), None, None));
    while let Some(step) = steps.next().await {
        let failed = match step {
            Ok(step) => step.error_detail.and_then(|e| e.message),
            Err(Error::DockerResponseServerError { message, .. }) => Some(message),
            Err(Error::DockerStreamError { error }) => Some(error),
            Err(error) => return Err(super::failed("pull", error)),
        };
        if let Some(reason) = failed {
            return Err(RuntimeError::ImagePull { image: image.to_owned(), reason });
        }
    }
    Ok(())
}

/// `None`: it is not there.
async fn inspect(docker: &Docker, image: &str) -> Result<Option<ImageInspect>> {
    if image.is_empty() || image.contains(|c: char| c.is_whitespace() || c == '?' || c == '#') {
        return Err(invalid(image));
    }
    match docker.inspect_image(image).await {
        Ok(found) => Ok(Some(found)),
        Err(Error::DockerResponseServerError { message, .. })
            if message.contains("invalid reference format")
                || message.contains("must be lowercase") =>
        {
            Err(invalid(image))
        }
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(failed("inspect image", error)),
    }
}

fn invalid(image: &str) -> RuntimeError {
    RuntimeError::InvalidImageName(format!(
        "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
    ))
}

fn describe(found: &ImageInspect) -> Image {
    let names = found.repo_tags.iter().chain(&found.repo_digests).flatten().cloned().collect();
    Image {
        id: found.id.clone().unwrap_or_default(),
        names,
        size_bytes: found.size.unwrap_or(0),
        user: found.config.as_ref().and_then(|c| c.user.clone()).unwrap_or_default(),
    }
}
