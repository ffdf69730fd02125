"""What is kept in MLflow: runs, registered models, their files and aliases, and the ledger's anchor.

A version is registered in one call, with all its tags, after its run is complete.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xadflow.errors import BadWeights, NoChampion, WrongUse
from xadflow.models.connection import Connection, pages, ref_of, summary
from xadflow.models.ledger_anchor import EXPERIMENT, read_anchor, write_anchor
from xadflow.models.places import folder_of, move_in
from xadflow.models.runs import log_batches, log_dataset, log_files, log_model, open_run, quiet
from xadflow.models.tags import FILES, KIND, MODEL_NAME, MODEL_VERSION, PREVIOUS, TRAINING_KEY
from xadflow.models.tracking_store import pages_at
from xadflow.models.versions import (
    Explains,
    ModelRef,
    ModelSummary,
    Part,
    check_files,
    checked_folder,
    checked_name,
    detector_of,
    parse_spec,
    saved_files,
)

if TYPE_CHECKING:
    import pandas as pd

CHAMPION, CHALLENGER = "champion", "challenger"


class Registry(Connection):
    """MLflow as the rest of xadflow sees it.

    `uri` is a database (sqlite:///... is the embedded store) or an http(s) server; `artifacts` is the folder for files
    when the store is a database, and the cache of what was downloaded when it is a server. Every method raises
    RegistryUnavailable when MLflow cannot be reached or refuses.
    """

    def log_training(
        self,
        *,
        model_name: str,
        folder: Path,
        experiment: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
        history: Sequence[tuple[int, str, float]],
        figures: Mapping[str, Path],
        dataset_name: str,
        dataset_digest: str,
        dataset_frame: pd.DataFrame,
        lineage: Mapping[str, object],
        tags: Mapping[str, str],
        input_shape: tuple[int, int, int] | None = None,
        explains: Explains | None = None,
    ) -> ModelRef:
        """Log one training as one run and register what it made as a new version that carries `tags`.

        Args:
            model_name: xad.<dataset>.<detector>, and .<explainer> for one that was trained for it.
            folder: what `Detector.save` wrote, or `save` of a trained explainer.
            history: (step, name, value).
            figures: name to image file.
            dataset_digest: md5 that DVC has for the manifest, at most 36 characters.
            dataset_frame: the manifest; its schema and size are logged, not its rows.
            lineage: written beside the figures as lineage.json.
            input_shape: (C, H, W) of a detector's signature; None for an explainer, which MLflow does not serve.
            explains: the detector version that an explainer belongs to.

        Raises:
            BadWeights: the folder holds anything but JSON and safetensors.
            RegistryUnavailable: as everywhere; the run is then marked FAILED and no version is registered.

        Many parameters: what MLflow keeps of a run, each given by its name.
        """
        checked_name(model_name)
        move_in(self.uri, self.artifacts)
        part: Part = "detector" if explains is None else "explainer"
        of = explains.as_tags() if explains is not None else {}
        files = saved_files(folder, part)
        run_name = f"{model_name} {dataset_digest[:8]}"
        with self._explained() as client, quiet():
            from mlflow import entities
            from mlflow.data.pandas_dataset import from_pandas

            described = from_pandas(dataset_frame, name=dataset_name, digest=dataset_digest).to_dict()
            with open_run(client, self._experiment(client, experiment), run_name, tags) as run_id:
                model_id = log_model(client, entities, run_id, folder, files, input_shape, part)
                log_batches(client, entities, run_id, metrics, params=params, history=history, model_id=model_id)
                log_dataset(client, entities, run_id, described)
                log_files(client, run_id, figures, lineage)
                client.set_terminated(run_id, "FINISHED")  # before the version: one that exists is complete
                self._ensure_model(client, model_name)
                # MLflow looks `models:/<id>` up at its global address, which is right on a server only
                source = f"models:/{model_id}" if self._remote else client.get_logged_model(model_id).artifact_location
                found = client.create_model_version(
                    model_name,
                    source,
                    run_id,
                    tags={**tags, **of, FILES: json.dumps(files, sort_keys=True)},
                    model_id=model_id,
                )
        return ref_of(found)

    def skip_numbers(self, model_name: str, to: int) -> None:
        """See that the next version of a model gets a number above `to`: MLflow gives no number twice.

        A registry that was lost begins at 1 again, where the evidence has rows of other weights.
        """
        with self._explained() as client, quiet():
            self._ensure_model(client, checked_name(model_name))
            number = 0
            while number < to:
                taken = client.create_model_version(model_name, self.artifacts.resolve().as_uri())
                number = int(taken.version)
                client.delete_model_version(model_name, str(number))

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Add figures to a run that is there, e.g. the gate's."""
        with self._explained() as client:
            from mlflow import entities

            log_batches(client, entities, run_id, metrics)

    def log_explanations(self, ref: ModelRef, metrics: Mapping[str, float], figures: Mapping[str, Path]) -> str:
        """Log one night's explanation quality as a run below the version's training run; returns its id."""
        tags = {
            "mlflow.parentRunId": ref.run_id,
            MODEL_NAME: ref.name,
            MODEL_VERSION: str(ref.version),
            KIND: "explanations",
        }
        move_in(self.uri, self.artifacts)
        with self._explained() as client:
            from mlflow import entities

            experiment_id = client.get_run(ref.run_id).info.experiment_id
            with open_run(client, experiment_id, f"explanations {ref.name} {ref.version}", tags) as run_id:
                log_batches(client, entities, run_id, metrics)
                log_files(client, run_id, figures, None)
                client.set_terminated(run_id, "FINISHED")
        return run_id

    def find_trained(self, model_name: str, training_key: str) -> ModelRef | None:
        """The newest version registered for this training whose files are still those registered, or None.

        Files on a server are not fetched for that: they are compared when they are loaded.
        """
        for one in self.versions(model_name, f"tags.`{TRAINING_KEY}` = '{training_key}'"):
            if self._is_whole(one):
                return one
        return None

    def versions(self, model_name: str, where: str = "") -> list[ModelRef]:
        """All versions of a model, newest first; none of one that is not there. `where` narrows MLflow's query."""
        query = f"name = '{checked_name(model_name)}'" + (f" and {where}" if where else "")
        with self._explained() as client:
            found = pages(lambda token: client.search_model_versions(query, page_token=token))
        return sorted(map(ref_of, found), key=lambda one: -one.version)

    def explainer_models(self, detector_model: str) -> list[str]:
        """Names of the models of explainers that were trained for any version of a detector."""
        query = f"name LIKE '{checked_name(detector_model)}.%'"
        with self._explained() as client:
            found = pages(lambda token: client.search_registered_models(query, page_token=token))
        return sorted(str(one.name) for one in found)

    def _is_whole(self, ref: ModelRef) -> bool:
        try:
            local = self.place(ref)
            if local is not None:
                check_files(local, ref)
        except BadWeights:
            return False
        return True

    def resolve(self, spec: str) -> ModelRef:
        """The version that `name@alias` or `name/3` means.

        Raises:
            WrongUse: neither form.
            UnknownName: no such version.
            NoChampion: no version carries the alias.
        """
        name, which = parse_spec(spec)
        if isinstance(which, int):
            return self._version(name, which)
        return self.alias(name, which) or self._lacking(name, which)

    def champion(self, model_name: str) -> ModelRef:
        """The version in service. Raises NoChampion that names the command which makes one."""
        return self.alias(model_name, CHAMPION) or self._lacking(model_name, CHAMPION)

    def alias(self, model_name: str, alias: str) -> ModelRef | None:
        """The version that carries an alias, or None."""
        model = self._model(model_name)
        version = model.aliases.get(alias) if model is not None else None
        return self._version(model_name, int(version)) if version is not None else None

    def set_alias(self, model_name: str, alias: str, version: int) -> None:
        """Move an alias; a champion that has to go is remembered for :meth:`rollback`.

        Raises UnknownName, and WrongUse for a judge that is to become champion.
        """
        if self._version(model_name, version).is_judge and alias == CHAMPION:
            raise WrongUse(
                "a judge never becomes champion: it must have no part in what it judges",
                seen=f"{model_name} version {version}",
                next_step="promote a version of a detector; `xadflow models list` shows them",
            )
        before = self.alias(model_name, alias) if alias == CHAMPION else None
        with self._explained() as client:
            if before is not None and before.version != version:
                client.set_registered_model_tag(model_name, PREVIOUS, str(before.version))
            client.set_registered_model_alias(model_name, alias, str(version))

    def drop_alias(self, model_name: str, alias: str) -> None:
        """Take an alias from whichever version carries it."""
        with self._explained() as client:
            client.delete_registered_model_alias(checked_name(model_name), alias)

    def previous_champion(self, model_name: str) -> ModelRef:
        """The version that was champion before the present one. Raises NoChampion without one."""
        model = self._model(model_name)
        previous = model.tags.get(PREVIOUS, "") if model is not None else ""
        if not (previous.isascii() and previous.isdigit()):
            raise NoChampion(
                "no earlier champion is remembered",
                seen=model_name,
                next_step=f"choose one by `xadflow models promote {model_name} VERSION`",
            )
        return self._version(model_name, int(previous))

    def tag(self, model_name: str, version: int, key: str, value: str) -> None:
        """Tag one version."""
        with self._explained() as client:
            client.set_model_version_tag(model_name, str(version), key, value)

    def detector_folder(self, ref: ModelRef) -> Path:
        """Local folder with a version's detector.json and weights.safetensors, seen to be the registered bytes.

        From a server they are downloaded once, into `artifacts`. Raises BadWeights when a file is gone or changed, and
        WrongUse for an explainer.
        """
        if ref.part != "detector":
            raise WrongUse(
                "this model is an explainer, not a detector",
                seen=ref.name,
                next_step=f"name its detector, {detector_of(ref.name)}",
            )
        return self._folder(ref)

    def explainer_folder(self, ref: ModelRef) -> Path:
        """Local folder with a version's explainer.json and its safetensors, as :meth:`detector_folder`."""
        return self._folder(ref)

    def _folder(self, ref: ModelRef) -> Path:
        return checked_folder(self.place(ref) or self._downloaded(ref), ref)

    def models(self) -> list[ModelSummary]:
        """All models of xadflow, by name."""
        with self._explained() as client:
            query = "name LIKE 'xad.%'"
            found = pages(lambda token: client.search_registered_models(query, page_token=token))
            return sorted((summary(client, one) for one in found), key=lambda one: one.name)

    def figures(self, ref: ModelRef) -> dict[str, float]:
        """Metrics of a version's training run, the gate's included."""
        with self._explained() as client:
            return dict(client.get_run(ref.run_id).data.metrics)

    def params(self, ref: ModelRef) -> dict[str, str]:
        """Parameters of a version's training run, as MLflow keeps them."""
        with self._explained() as client:
            return dict(client.get_run(ref.run_id).data.params)

    def run_link(self, ref: ModelRef) -> str:
        """Address of a version's run in MLflow's pages; where none are up, which run it is and what shows it."""
        with self._explained() as client:
            experiment = client.get_run(ref.run_id).info.experiment_id
        pages = pages_at(self.uri)
        if pages is None:
            return f"run {ref.run_id}; `make server` shows it"
        return f"{pages}/#/experiments/{experiment}/runs/{ref.run_id}"

    def anchor_head(self, seq: int, digest: str) -> None:
        """Remember the ledger's head outside of it. Raises AuditFailed when line `seq` had another digest before."""
        with self._explained() as client:
            write_anchor(client, self._experiment(client, EXPERIMENT), seq, digest)

    def anchored_head(self) -> dict[str, Any] | None:
        """{"seq", "digest"} of the highest head ever anchored, or None. Raises AuditFailed when there are two of it."""
        with self._explained() as client:
            return read_anchor(client)

    def place(self, ref: ModelRef) -> Path | None:
        """Folder of a version's own files when its artifacts are local, else None.

        Raises BadWeights when they are not below `artifacts`: what lies elsewhere, anybody may have registered.
        """
        with self._explained() as client:
            address = client.get_model_version_download_uri(ref.name, str(ref.version))
        return folder_of(ref, address, self.artifacts)

    def _downloaded(self, ref: ModelRef) -> Path:
        target = self.artifacts / "downloaded" / ref.name / str(ref.version)
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._explained(), tempfile.TemporaryDirectory(dir=target.parent) as partial:
                import mlflow.artifacts

                got = mlflow.artifacts.download_artifacts(
                    artifact_uri=f"models:/{ref.name}/{ref.version}/artifacts/{ref.part}",
                    dst_path=partial,
                    tracking_uri=self.uri,
                    registry_uri=self.uri,
                )
                with suppress(OSError):  # another process was quicker
                    Path(got).rename(target)
        return target
