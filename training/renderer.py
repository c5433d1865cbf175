"""Pictures of 3-D models on nothing, with a map of which mesh is seen where, drawn offscreen by VTK."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from training.library import ByteArray
from training.meshes import Mesh

# Drawn at about twice the size, for soft rims.
SIZE: Final = 880
# How much of the picture the model's box takes.
FILLS: Final = 0.95
TEXTURING: Final = "//VTK::TCoord::Impl"
# What in a shader is replaced, before VTK replaces it itself, by what, and not in all places.
CUT_OUT: Final = (TEXTURING, True, f"{TEXTURING}\nif (gl_FragData[0].a < 0.5) discard;\n", False)
MOST_MESHES: Final = 254


@dataclass(frozen=True)
class View:
    """From where, and in which light. Angles in degrees."""

    azimuth: float
    elevation: float
    opening: float
    key: tuple[float, float, float]
    fill: tuple[float, float, float]
    warmth: float
    ambient: float
    strength: float


def drawn_view(rng: np.random.Generator) -> View:
    """Mostly from eye level or a little above."""
    azimuth = rng.uniform(0, 360)
    elevation = rng.uniform(-3, 22) if rng.random() < 0.75 else rng.uniform(22, 60)  # noqa: PLR2004
    lights = [(rng.uniform(-1.6, 1.6), rng.uniform(0.1, 1.8), rng.uniform(0.2, 1.2)) for _ in range(2)]
    warmth, ambient, strength = rng.uniform(-1, 1), rng.uniform(0.2, 0.5), rng.uniform(0.6, 1.0)
    return View(azimuth, elevation, rng.uniform(18, 45), lights[0], lights[1], warmth, ambient, strength)


class Renderer:
    """Draws one model from many sides."""

    def __init__(self, meshes: Sequence[Mesh]) -> None:
        import vtkmodules.vtkInteractionStyle  # noqa: PLC0415
        import vtkmodules.vtkRenderingOpenGL2  # noqa: F401, PLC0415
        from vtkmodules.vtkRenderingCore import vtkRenderer, vtkRenderWindow  # noqa: PLC0415

        self._window = vtkRenderWindow()
        self._window.OffScreenRenderingOn()
        self._window.SetMultiSamples(0)
        self._window.SetSize(SIZE, SIZE)
        self._scene = vtkRenderer()
        self._scene.SetBackground(0, 0, 0)
        self._scene.AutomaticLightCreationOff()
        self._window.AddRenderer(self._scene)
        self._actors = [_Actor(mesh, index + 1) for index, mesh in enumerate(meshes[:MOST_MESHES])]
        for actor in self._actors:
            self._scene.AddActor(actor.actor)

    def draw(self, view: View) -> tuple[ByteArray, ByteArray]:
        """(880, 880, 3) uint8 RGB on black, and (880, 880) uint8: 0 for nothing, else the number of the mesh from 1."""
        self._aim(view)
        for actor in self._actors:
            actor.show(view.ambient)
        self._light(view)
        colours = self._picture()
        for actor in self._actors:
            actor.show_number()
        return colours, np.ascontiguousarray(self._picture()[..., 0])

    def _aim(self, view: View) -> None:
        camera = self._scene.GetActiveCamera()
        camera.SetFocalPoint(0, 0, 0)
        camera.SetPosition(0, 0, 1)
        camera.SetViewUp(0, 1, 0)
        camera.Azimuth(view.azimuth)
        camera.Elevation(view.elevation)
        camera.SetViewAngle(view.opening)
        self._scene.ResetCameraScreenSpace(FILLS)

    def _light(self, view: View) -> None:
        from vtkmodules.vtkRenderingCore import vtkLight  # noqa: PLC0415

        self._scene.RemoveAllLights()
        for position, strength, warmth in ((view.key, view.strength, view.warmth), (view.fill, 0.35, -view.warmth)):
            light = vtkLight()
            light.SetLightTypeToCameraLight()
            light.SetPosition(*position)
            light.SetFocalPoint(0, 0, 0)
            light.SetIntensity(strength)
            light.SetColor(1, 1 - 0.06 * abs(warmth), 1 - 0.15 * max(0.0, warmth))
            self._scene.AddLight(light)

    def _picture(self) -> ByteArray:
        from vtkmodules.util.numpy_support import vtk_to_numpy  # noqa: PLC0415
        from vtkmodules.vtkRenderingCore import vtkWindowToImageFilter  # noqa: PLC0415

        copy = vtkWindowToImageFilter()
        copy.SetInput(self._window)
        copy.SetInputBufferTypeToRGB()
        copy.ReadFrontBufferOff()
        copy.Update()
        pixels = vtk_to_numpy(copy.GetOutput().GetPointData().GetScalars()).reshape(SIZE, SIZE, 3)
        return np.ascontiguousarray(pixels[::-1])

    def close(self) -> None:
        """Free what VTK holds."""
        self._window.Finalize()


class _Actor:
    """A mesh, to be shown with its surface or with its number as colour."""

    def __init__(self, mesh: Mesh, number: int) -> None:
        from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray  # noqa: PLC0415
        from vtkmodules.vtkCommonCore import vtkPoints  # noqa: PLC0415
        from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData  # noqa: PLC0415
        from vtkmodules.vtkRenderingCore import vtkActor, vtkPolyDataMapper  # noqa: PLC0415

        data = vtkPolyData()
        points = vtkPoints()
        points.SetData(numpy_to_vtk(np.ascontiguousarray(mesh.points, np.float32), deep=True))
        data.SetPoints(points)
        cells = vtkCellArray()
        flat = np.insert(mesh.triangles, 0, 3, axis=1).ravel()
        cells.ImportLegacyFormat(numpy_to_vtkIdTypeArray(np.ascontiguousarray(flat), deep=True))
        data.SetPolys(cells)
        if mesh.normals is not None:
            data.GetPointData().SetNormals(numpy_to_vtk(np.ascontiguousarray(mesh.normals, np.float32), deep=True))
        self._texture = self._stencil = None
        if mesh.texture is not None and mesh.places is not None:
            data.GetPointData().SetTCoords(numpy_to_vtk(np.ascontiguousarray(mesh.places, np.float32), deep=True))
            self._texture = _texture(mesh.texture)
            white = np.full_like(mesh.texture, 255)
            white[..., 3] = mesh.texture[..., 3]
            self._stencil = _texture(white)
        mapper = vtkPolyDataMapper()
        mapper.SetInputData(data)
        self.actor = vtkActor()
        self.actor.SetMapper(mapper)
        self.actor.ForceOpaqueOn()
        if self._texture is not None:
            # As games do: a point of a texture is there or it is not.
            self.actor.GetShaderProperty().AddFragmentShaderReplacement(*CUT_OUT)
        self._colour = (1.0, 1.0, 1.0) if self._texture is not None else mesh.colour
        self._number = number

    def show(self, ambient: float) -> None:
        """With its texture or colour, lit."""
        surface = self.actor.GetProperty()
        surface.LightingOn()
        surface.SetColor(*self._colour)
        surface.SetAmbient(ambient)
        surface.SetDiffuse(0.9)
        surface.SetInterpolationToPhong()
        self.actor.SetTexture(self._texture)

    def show_number(self) -> None:
        """Flat, in the grey of its number."""
        surface = self.actor.GetProperty()
        surface.LightingOff()
        surface.SetColor(*([self._number / 255] * 3))
        self.actor.SetTexture(self._stencil)


def _texture(pixels: ByteArray) -> Any:
    from vtkmodules.util.numpy_support import numpy_to_vtk  # noqa: PLC0415
    from vtkmodules.vtkCommonDataModel import vtkImageData  # noqa: PLC0415
    from vtkmodules.vtkRenderingCore import vtkTexture  # noqa: PLC0415

    image = vtkImageData()
    image.SetDimensions(pixels.shape[1], pixels.shape[0], 1)
    flat = np.ascontiguousarray(pixels[::-1]).reshape(-1, 4)
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
    texture = vtkTexture()
    texture.SetInputData(image)
    texture.SetColorModeToDirectScalars()
    texture.RepeatOn()
    texture.InterpolateOn()
    return texture
