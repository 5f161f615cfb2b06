//! Workspaces: trees of files that first runs start from, uploaded whole.
//!
//! Absent: where they are kept (the program's [`crate::Workspaces`]) and how runs change them (runners).

use std::collections::BTreeSet;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_gateway_model::{Digest, Principal};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Auth;
use crate::input::Upload;
use crate::problem::{Problem, WORKSPACE_INVALID, WORKSPACE_UNAVAILABLE, WORKSPACE_UNKNOWN};
use crate::reply;
use crate::state::{AppState, WorkspaceError, WorkspaceFile};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(upload_workspace))
}

const MAX_FILES: usize = 10_000;
const MAX_PATH: usize = 1024;

/// A tree of files.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "files": [{ "path": "add.sh", "text": "#!/bin/sh\necho $(($1 + $2))\n", "executable": true }]
}))]
pub(crate) struct Tree {
    /// The files: at most 10,000.
    files: Vec<File>,
}

/// One file; its bytes as `text` or as `base64`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// Where it is: relative, `/` between its parts, none of them `.` or `..`.
    path: String,
    /// Its bytes, where they are UTF-8 text.
    #[serde(default)]
    text: Option<String>,
    /// Its bytes in base64.
    #[serde(default)]
    base64: Option<String>,
    /// Whether it may be executed.
    #[serde(default)]
    executable: bool,
}

/// A tree that is kept.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({ "workspace": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" }))]
pub(crate) struct Workspace {
    /// Its digest: what `workspace` of a new instance names.
    #[schema(value_type = String)]
    workspace: Digest,
}

/// Upload a workspace
///
/// Keeps a tree under the digest of its content. The same tree has the same digest, however often it is sent.
#[utoipa::path(
    post, path = "/api/v1/workspaces", operation_id = "uploadWorkspace", tag = "runs",
    request_body = Tree,
    responses((status = 201, description = "It is kept", body = Workspace)),
)]
async fn upload_workspace(State(app): State<AppState>, Auth(who): Auth, upload: Upload) -> Result<Response, Problem> {
    let tree: Tree = upload.read()?;
    let files = checked(tree)?;
    let workspace = app.workspaces.put(&who, files).await.map_err(problem)?;
    reply::json(StatusCode::CREATED, &Workspace { workspace })
}

/// Makes sure that a workspace is there before an instance is built on it.
pub(crate) async fn kept(app: &AppState, who: &Principal, workspace: Digest) -> Result<(), Problem> {
    if app.workspaces.renew(who, workspace).await.map_err(problem)? {
        return Ok(());
    }
    Err(Problem::new(WORKSPACE_UNKNOWN, format!("`{workspace}` is not kept here; upload it again")).at("/workspace"))
}

fn problem(error: WorkspaceError) -> Problem {
    match error {
        WorkspaceError::Invalid(why) => Problem::new(WORKSPACE_INVALID, why),
        WorkspaceError::Unavailable(error) => {
            tracing::error!(cause = crate::problem::chain(&*error), "a workspace could not be stored");
            Problem::new(WORKSPACE_UNAVAILABLE, WORKSPACE_UNAVAILABLE.title)
        }
    }
}

/// The files of a tree, if every path stays inside it and none is in another's way.
fn checked(tree: Tree) -> Result<Vec<WorkspaceFile>, Problem> {
    if tree.files.len() > MAX_FILES {
        return Err(Problem::new(WORKSPACE_INVALID, format!("a tree has at most {MAX_FILES} files")));
    }
    let mut files = Vec::with_capacity(tree.files.len());
    for (at, file) in tree.files.into_iter().enumerate() {
        let bad = |what: &str| Err(Problem::new(WORKSPACE_INVALID, what.to_owned()).at(&format!("/files/{at}")));
        if file.path.len() > MAX_PATH || file.path.chars().any(char::is_control) || file.path.contains('\\') {
            return bad("a path has at most 1024 bytes, no control characters and no backslash");
        }
        if file.path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return bad("a path is relative, and none of its parts is empty, `.` or `..`");
        }
        let bytes = match (file.text, file.base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(base64)) => match STANDARD.decode(base64) {
                Ok(bytes) => bytes,
                Err(error) => return bad(&format!("`base64` cannot be read: {error}")),
            },
            _ => return bad("a file has either `text` or `base64`"),
        };
        files.push(WorkspaceFile { path: file.path, executable: file.executable, bytes });
    }
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    if paths.len() < files.len() {
        return Err(Problem::new(WORKSPACE_INVALID, "a path stands twice"));
    }
    // A file cannot be the folder of another one.
    let parent =
        |path: &str| path.match_indices('/').any(|(end, _)| path.get(..end).is_some_and(|p| paths.contains(p)));
    if let Some(file) = files.iter().find(|file| parent(&file.path)) {
        return Err(Problem::new(WORKSPACE_INVALID, format!("`{}` lies below a file", file.path)));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> File {
        File { path: path.to_owned(), text: Some(String::new()), base64: None, executable: false }
    }

    #[test]
    fn trees_stay_inside_themselves() {
        for (paths, good) in [
            (&["a", "b/c", "b/d"][..], true),
            (&[".hidden", "a..b", "..."], true),
            (&["/a"], false),
            (&["a/"], false),
            (&["a//b"], false),
            (&[""], false),
            (&["."], false),
            (&["../a"], false),
            (&["a/../b"], false),
            (&["a\\b"], false),
            (&["a\nb"], false),
            (&["a", "a"], false),
            (&["a", "a/b"], false),
        ] {
            let tree = Tree { files: paths.iter().map(|path| file(path)).collect() };
            assert_eq!(checked(tree).is_ok(), good, "{paths:?}");
        }
        let both = File { base64: Some("YQ==".to_owned()), ..file("a") };
        assert!(checked(Tree { files: vec![both] }).is_err());
        let none = File { text: None, ..file("a") };
        assert!(checked(Tree { files: vec![none] }).is_err());
        let base64 = File { text: None, base64: Some("YQ==".to_owned()), ..file("a") };
        assert_eq!(checked(Tree { files: vec![base64] }).unwrap().pop().unwrap().bytes, b"a");
    }
}
