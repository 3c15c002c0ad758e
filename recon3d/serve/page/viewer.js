/* The head in 3D: a GLB file with its morph targets, its bones and its animation, and a camera to go round it. */

import * as THREE from "three";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";

const STEP = Math.PI / 24;

export class Viewer {
  constructor(canvas) {
    this.canvas = canvas;
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true });
    this.scene = new THREE.Scene();
    this.scene.add(new THREE.HemisphereLight(0xffffff, 0x8d8d99, 2.6));
    this.camera = new THREE.PerspectiveCamera(24, 1, 0.01, 100);
    this.lamp = new THREE.DirectionalLight(0xffffff, 1.1);
    this.camera.add(this.lamp);
    this.lamp.position.set(0.4, 0.6, 1);
    this.scene.add(this.camera);
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.enableDamping = false;
    this.controls.addEventListener("change", () => this.draw());
    this.wished = false;
    this.model = null;
    new ResizeObserver(() => this.fit()).observe(canvas.parentElement);
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  /** Show a file; returns what is in it. What was shown before goes. */
  async load(address) {
    const gltf = await new GLTFLoader().loadAsync(address);
    this.clear();
    this.model = gltf.scene;
    gltf.scene.traverse((thing) => {
      if (thing.isSkinnedMesh) this.mesh = thing;
    });
    this.mesh.frustumCulled = false; // it moves out of the box that it had at rest
    this.material = this.mesh.material;
    this.plain = new THREE.MeshStandardMaterial({ color: 0xb9bec8, roughness: 0.7 });
    this.bones = new THREE.SkeletonHelper(gltf.scene);
    this.bones.visible = false;
    this.bones.material.depthTest = false;
    this.joints = this.jointMarks();
    this.scene.add(gltf.scene, this.bones, this.joints);
    const [clip] = gltf.animations;
    this.mixer = null;
    if (clip) {
      this.mixer = new THREE.AnimationMixer(gltf.scene);
      const action = this.mixer.clipAction(clip).setLoop(THREE.LoopOnce);
      action.clampWhenFinished = true;
      action.play();
      this.mixer.setTime(0);
    }
    this.fit();
    this.front();
    return { names: this.names(), rest: Array.from(this.mesh.morphTargetInfluences), curves: this.curves(clip) };
  }

  names() {
    const { morphTargetDictionary: known } = this.mesh;
    return Object.keys(known).sort((a, b) => known[a] - known[b]);
  }

  /** The morph targets' curves as they are in the file, or null for a head that does not move. */
  curves(clip) {
    const track = clip?.tracks.find((one) => one.name.endsWith(".morphTargetInfluences"));
    if (!track) return null;
    return { times: track.times, values: track.values, duration: clip.duration };
  }

  clear() {
    if (!this.model) return;
    for (const thing of [this.model, this.bones, this.joints]) this.scene.remove(thing);
    for (const thing of [this.mesh.geometry, this.material.map, this.material, this.plain, this.bones, this.joints.geometry, this.joints.material]) thing?.dispose();
    this.model = null;
    this.draw();
  }

  /** Bones without length, like those of the eyes, are seen by their joints alone. */
  jointMarks() {
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.BufferAttribute(new Float32Array(3 * this.mesh.skeleton.bones.length), 3));
    const material = new THREE.PointsMaterial({ color: 0xe11d48, size: 9, sizeAttenuation: false, depthTest: false });
    const marks = new THREE.Points(geometry, material);
    marks.frustumCulled = false;
    marks.visible = false;
    return marks;
  }

  /** Look at the face from where the file's front is. */
  front() {
    if (!this.model) return;
    this.scene.updateMatrixWorld(true);
    this.mesh.skeleton.update();
    this.mesh.computeBoundingBox();
    const box = this.mesh.boundingBox.clone().applyMatrix4(this.mesh.matrixWorld);
    const size = box.getSize(new THREE.Vector3());
    const centre = box.getCenter(new THREE.Vector3());
    const reach = Math.max(size.y, size.x / Math.max(this.camera.aspect, 0.1)) / 2;
    const distance = (1.25 * reach) / Math.tan(THREE.MathUtils.degToRad(this.camera.fov / 2)) + size.z / 2;
    this.controls.target.copy(centre);
    this.camera.position.copy(centre).add(new THREE.Vector3(0, 0, distance));
    this.camera.near = distance / 100;
    this.camera.far = distance * 20;
    this.camera.updateProjectionMatrix();
    this.controls.update();
    this.draw();
  }

  seek(seconds) {
    this.mixer?.setTime(seconds);
    this.draw();
  }

  set(index, value) {
    this.mesh.morphTargetInfluences[index] = value;
    this.draw();
  }

  showBones(shown) {
    this.bones.visible = this.joints.visible = shown;
    this.draw();
  }

  showWires(shown) {
    this.material.wireframe = this.plain.wireframe = shown;
    this.draw();
  }

  showTexture(shown) {
    this.mesh.material = shown ? this.material : this.plain;
    this.draw();
  }

  key(event) {
    const turns = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    const zooms = { "+": 0.9, "=": 0.9, "-": 1 / 0.9 };
    if (event.ctrlKey || event.altKey || event.metaKey || !(turns[event.key] || zooms[event.key])) return;
    event.preventDefault();
    event.stopPropagation();
    const { target } = this.controls;
    const place = new THREE.Spherical().setFromVector3(this.camera.position.clone().sub(target));
    const [around, over] = turns[event.key] ?? [0, 0];
    place.theta += around;
    place.phi += over;
    place.radius *= zooms[event.key] ?? 1;
    this.camera.position.copy(target).add(new THREE.Vector3().setFromSpherical(place.makeSafe()));
    this.controls.update();
    this.draw();
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.canvas.parentElement;
    if (!width || !height) return;
    this.renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
    this.draw();
  }

  /** Draw at the next refresh, however often this is asked. */
  draw() {
    if (this.wished) return;
    this.wished = true;
    requestAnimationFrame(() => {
      this.wished = false;
      if (this.model && this.joints.visible) this.placeJoints();
      this.renderer.render(this.scene, this.camera);
    });
  }

  placeJoints() {
    this.scene.updateMatrixWorld(true);
    const places = this.joints.geometry.attributes.position;
    const at = new THREE.Vector3();
    this.mesh.skeleton.bones.forEach((bone, k) => {
      bone.getWorldPosition(at);
      places.setXYZ(k, at.x, at.y, at.z);
    });
    places.needsUpdate = true;
  }
}
