"""Clusters of keys with equal targets, each point of which leads to a block (MELO's database)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from alphaedit.core.change import Change
from alphaedit.methods.steps.codebook import GAP, Labels, Rows
from alphaedit.methods.steps.nearest import NEVER, Nearest, distance


class Clusters:
    """Clusters of points, composed point by point; on the CPU in float32.

    A point joins the nearest cluster if that has its target and their reaches meet: the centre
    becomes the mean, the radius the largest distance of a point, and no less than the first one's.
    Of other targets that meet, both radii become half the way. Points that are then outside are
    forgotten as published, or (`astray`) begin clusters of their own that reach half the way to the
    new point; of two with the same key the later stays. All other points begin clusters.
    """

    def __init__(self, *, astray: bool = True) -> None:
        self.astray = astray
        self._points, self._centres, self._radii, self._labels = Rows(), Rows(), Rows(), Rows()
        self._blocks = Rows()
        self._members: list[list[int]] = []
        self._known = Labels()
        self.blocks = 0
        self.forgotten = 0

    def take(self, change: Change) -> None:
        """Go on with the rows of a change: key [n, d], radius [n], target [n, t] and block [n]."""
        first, keys = len(self._points), change.rows["key"].float()
        self._points.add(keys)
        self._blocks.add(change.rows["block"] + self.blocks)
        self.blocks += len(change.shared["down"])
        labels = self._known.of(change.rows["target"])
        radii = change.rows["radius"].float()
        for i in range(len(keys)):
            self._add(first + i, keys[i], radii[i : i + 1], labels[i : i + 1])

    def _add(self, point: int, key: Tensor, radius: Tensor, label: Tensor) -> None:
        radii, centres, near = self._radii.tensor, self._centres.tensor, None
        if len(radii):
            apart = torch.where(radii == NEVER, math.inf, distance(key, centres))
            way, near = apart.min(0)
            if way > radii[near] + radius[0]:
                near = None
            elif self._labels.tensor[near] == label[0]:
                self._join(int(near), point, radius[0])
                return
        if near is not None:
            half = way / 2
            self._shrink(int(near), half - GAP, key)
            radius = torch.minimum(radius, half[None]) if half > 0 else radius
        self._begin(point, radius, label)

    def _join(self, cluster: int, point: int, radius: Tensor) -> None:
        self._members[cluster].append(point)
        points = self._points.tensor[self._members[cluster]]
        centre = points.mean(0)
        self._centres.tensor[cluster] = centre
        self._radii.tensor[cluster] = torch.maximum(distance(points, centre).max(), radius)

    def _shrink(self, cluster: int, radius: Tensor, key: Tensor) -> None:
        """Let a cluster reach no further than `radius`, as another one begins at `key`."""
        members, first = self._members[cluster], self._radii.tensor[cluster].clone()
        radius = torch.minimum(first, radius)
        points = self._points.tensor[members]
        apart = distance(points, self._centres.tensor[cluster])
        stay = [point for point, way in zip(members, apart, strict=True) if way <= radius]
        self._members[cluster] = stay
        self._radii.tensor[cluster] = radius if stay else NEVER
        label = self._labels.tensor[cluster : cluster + 1].clone()
        for point, way in zip(members, distance(points, key), strict=True):
            reach = torch.minimum(first, way / 2 - GAP)
            if point in stay:
                continue
            if self.astray and reach > 0:
                self._begin(point, reach[None], label)
            else:
                self.forgotten += 1

    def _begin(self, point: int, radius: Tensor, label: Tensor) -> None:
        self._centres.add(self._points.tensor[point : point + 1])
        self._radii.add(radius)
        self._labels.add(label)
        self._members.append([point])

    def on(self, device: torch.device) -> ToBlock:
        """What leads queries to blocks, on a device."""
        longest = max(map(len, self._members))
        members = [row + [-1] * (longest - len(row)) for row in self._members]
        return ToBlock(
            Nearest(self._centres.tensor.to(device), self._radii.tensor.to(device)),
            torch.tensor(members).reshape(len(members), longest).to(device),
            self._points.tensor.to(device),
            self._blocks.tensor.to(device),
        )


class ToBlock:
    """From a query to the nearest cluster, if it is within, and to the block of its nearest point.

    Args:
        nearest: clusters.
        members: [clusters, m] numbers of their points, -1 behind the fewer ones.
        points: [n, d].
        blocks: [n] int64.
    """

    def __init__(self, nearest: Nearest, members: Tensor, points: Tensor, blocks: Tensor) -> None:
        self.nearest, self.members, self.points, self.blocks = nearest, members, points, blocks

    def __call__(self, query: Tensor) -> Tensor:
        """Numbers of blocks for states [rows, d], [rows] int64; -1 where there is none."""
        cluster = self.nearest(query)
        if not bool((cluster >= 0).any()):
            return cluster
        members = self.members[cluster.clamp_min(0)]
        apart = distance(query.to(self.points)[:, None], self.points[members.clamp_min(0)])
        place = torch.where(members < 0, math.inf, apart).argmin(1)
        point = members.gather(1, place[:, None])[:, 0]
        return torch.where(cluster >= 0, self.blocks[point], -1)
