"""How a task finds its place."""


class PlacementGroupSchedulingStrategy:
    def __init__(self, placement_group):
        self.placement_group = placement_group
